#include "progress.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>

namespace torchfeed::finetune {
namespace {

constexpr auto kBetweenDrawings = std::chrono::milliseconds(100);
constexpr size_t kBarWidth = 12;
constexpr const char* kClearLine = "\r\033[K";

std::string bar(size_t done, size_t total) {
  const size_t filled = total == 0 ? kBarWidth : done * kBarWidth / total;
  return '[' + std::string(filled, '#') + std::string(kBarWidth - filled, '.') + ']';
}

}  // namespace

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { clear_bar(); }

void Progress::batch(const EpochProgress& progress) {
  if (quiet_ || !terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (bar_drawn_ && now - last_drawn_ < kBetweenDrawings) return;
  last_drawn_ = now;
  bar_drawn_ = true;
  std::fprintf(stderr, "%sepoch %" PRId64 "/%" PRId64 " %s train %.4f  %.0f samples/s  data wait %.1f %%", kClearLine,
               progress.epoch, progress.epochs, bar(progress.samples, progress.epoch_samples).c_str(),
               progress.train_loss, progress.samples_per_second, 100 * progress.wait_fraction);
  std::fflush(stderr);
}

void Progress::epoch(const EpochProgress& progress, double validation_loss, bool is_best) {
  if (quiet_) return;
  clear_bar();
  std::fprintf(stderr,
               "epoch %" PRId64 "/%" PRId64 "  train %.4f  validation %.4f%s  %.0f samples/s  data wait %.1f %%\n",
               progress.epoch, progress.epochs, progress.train_loss, validation_loss, is_best ? " (best)" : "       ",
               progress.samples_per_second, 100 * progress.wait_fraction);
}

void Progress::line(const std::string& text) {
  if (quiet_) return;
  clear_bar();
  std::fprintf(stderr, "%s\n", text.c_str());
}

void Progress::clear_bar() {
  if (!bar_drawn_) return;
  std::fputs(kClearLine, stderr);
  bar_drawn_ = false;
}

}  // namespace torchfeed::finetune
