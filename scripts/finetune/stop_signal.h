#pragma once

namespace torchfeed::finetune {

/// From now on the first SIGINT or SIGTERM only asks for a stop; the second ends the process at once.
void catch_stop_signals();

/// The signal that asked for a stop, 0 if none has.
int stop_signal() noexcept;

}  // namespace torchfeed::finetune
