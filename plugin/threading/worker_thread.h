#pragma once

namespace torchfeed::threading {

/// Makes ATen's and OpenMP's parallel regions that the calling thread starts run in it alone, so that loader threads do
/// not each bring a team of their own. Other threads keep their counts: OpenMP holds one for each thread. A child
/// inherits the count of the thread that forked it.
///
/// Starts no thread, other than at::set_num_threads(), which makes one of LibTorch's pools as large as the machine
/// first and waits for ever where a limit keeps its threads from starting. In a child: call prepare_compute_alone()
/// before the fork. False if there is no OpenMP library to be told.
bool compute_on_this_thread_alone();

/// Lets ATen set up the calling thread, as it does before a thread's first parallel region.
void prepare_compute_alone();

}  // namespace torchfeed::threading
