#pragma once

namespace torchfeed::threading {

/// Keeps this library in memory until the process ends, also where it was part of a plug-in that is closed: others call
/// its code. Any thread.
void stay_loaded();

}  // namespace torchfeed::threading
