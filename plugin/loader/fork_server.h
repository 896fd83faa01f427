#pragma once

#include <torchfeed/plugin/loader/crew.h>
#include <torchfeed/plugin/loader/file_descriptor.h>
#include <torchfeed/plugin/loader/worker.h>

#include <sys/types.h>

namespace torchfeed::loader {

/// The trainer's handle of the fork server: a child process, made from the trainer when the loader is (with kAuto, when
/// the first worker is), that forks the workers, buries the dead ones, gives back what they held and forks others in
/// their place. Workers come from this process and not from the trainer, as it has one thread and stays as the trainer
/// was then.
///
/// The server dies with the trainer (it watches a pidfd of it, as PR_SET_PDEATHSIG would fire when the thread ends
/// that made the loader), and the workers die with the server.
class ForkServer final : public Crew {
 public:
  /// Forks the server; workers start at once, as many as the ring's target_workers says.
  /// `job` must stay as it is until the call returns. Throws std::system_error if the fork fails.
  ForkServer(const WorkerJob& job, std::uint32_t max_restarts);

  /// Ends workers and server, and waits for them. Idle workers leave by themselves, busy ones are killed soon.
  ~ForkServer() override;

  /// Whether the server still runs. A system call.
  bool alive() const noexcept override;
  void call(std::uint32_t count) override;
  void send_home() noexcept override;

 private:
  /// Makes the server look at target_workers.
  void poke() noexcept;

  SlotRing& ring_;
  FileDescriptor commands_;  // eventfd: poke
  FileDescriptor server_;    // pidfd
  pid_t pid_ = -1;
};

}  // namespace torchfeed::loader
