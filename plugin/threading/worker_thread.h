#pragma once

namespace torchfeed::threading {

/// Makes ATen's and OpenMP's parallel regions that the calling thread starts run in it alone, so that loader threads do
/// not each bring a team of their own. Other threads keep their counts: OpenMP holds one for each thread. Without an
/// OpenMP library nothing is done.
void compute_on_this_thread_alone();

}  // namespace torchfeed::threading
