#pragma once

#include <csignal>

namespace torchfeed::loader {

/// First thing in the fork server: puts the trainer's signal handlers away, makes every thread pool of LibTorch one
/// thread wide before it is touched, as the trainer's threads did not come along.
/// `mask` is the trainer's signal mask, which workers get back.
void enter_server_process(const sigset_t& mask) noexcept;

/// First thing in a worker: what is above is inherited, only the signal mask is put back. A dataset that calls exit()
/// ends the worker without the trainer's static destructors.
void enter_worker_process(int id) noexcept;

}  // namespace torchfeed::loader
