#pragma once

namespace torchfeed::loader {

/// First thing in the fork server: puts the trainer's signal handlers away, makes every thread pool of LibTorch one
/// thread wide before it is touched, as the trainer's threads did not come along.
void enter_server_process() noexcept;

/// First thing in a worker: as above is inherited, only the signals that the server listens to are undone.
void enter_worker_process(int id) noexcept;

}  // namespace torchfeed::loader
