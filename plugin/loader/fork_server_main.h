#pragma once

#include <torchfeed/plugin/loader/worker.h>

#include <sys/types.h>

#include <cstdint>

namespace torchfeed::loader {

/// The fork server's life, in its own process, which has one thread. `commands` is an eventfd that says "look at the
/// ring's target_workers and stop", `trainer` a pidfd. Never returns.
[[noreturn]] void run_fork_server(const WorkerJob& job, std::uint32_t max_restarts, int commands, int trainer);

}  // namespace torchfeed::loader
