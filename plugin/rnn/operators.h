#pragma once

namespace torchfeed::rnn {

/// Whether LibTorch's gru, and its lstm where LibTorch does not do so itself (before 2), compute in a oneDNN primitive
/// for each layer and direction instead of some twenty operators for each time step. That is for float32 on the CPU and
/// finite numbers, where all layers of a call are small enough to be worth it: see worth_it() in the source. All others
/// go LibTorch's way, and so do gradients of gradients. Results are LibTorch's but for the last bits. Dropout takes the
/// same random numbers.
///
/// Holds for the whole process and what it forks. The first call that turns it on registers kernels at LibTorch's
/// dispatcher: no other thread may run a recurrent layer at that moment. Any thread otherwise.
void use_onednn(bool use);
bool onednn_is_used();

}  // namespace torchfeed::rnn
