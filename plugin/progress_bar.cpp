#include <torchfeed/plugin/progress_bar.h>

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace torchfeed {
namespace {

constexpr std::chrono::milliseconds kBetweenDrawings{100};
constexpr std::chrono::seconds kBetweenLines{1};
constexpr std::size_t kLines = 10;
constexpr std::size_t kBarWidth = 12;
constexpr const char* kClearLine = "\r\033[K";

double seconds_between(ProgressBar::Clock::time_point begin, ProgressBar::Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

template <typename... Parts>
std::string format(const char* pattern, Parts... parts) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, parts...);
  return text;
}

std::string duration(double seconds) {
  if (seconds < 60) {
    return format("%.1f s", seconds);
  }
  const auto whole = static_cast<unsigned long long>(std::min(seconds, 1e15));
  return whole < 3600 ? format("%llu:%02llu min", whole / 60, whole % 60)
                      : format("%llu:%02llu h", whole / 3600, whole / 60 % 60);
}

std::string rate(std::size_t items, double seconds, const std::string& unit) {
  const double a_second = static_cast<double>(items) / std::max(seconds, 1e-9);
  return format(a_second < 10 ? "%.2f " : "%.0f ", a_second) + unit + "/s";
}

}  // namespace

ProgressBar::ProgressBar(std::size_t total, std::FILE* out, Clock::time_point now, std::string unit)
    : total_(total),
      out_(out),
      unit_(std::move(unit)),
      terminal_(::isatty(::fileno(out)) == 1),
      begin_(now),
      last_(now) {}

ProgressBar::~ProgressBar() {
  if (drawn_) {
    std::fputs(kClearLine, out_);
    std::fflush(out_);
  }
}

void ProgressBar::add(std::size_t items, Clock::time_point now) {
  done_ += items;
  const bool ended = done_ >= total_;
  const double seconds = seconds_between(begin_, now);
  if (ended) {
    std::fprintf(out_, "%s%zu %s in %s, %s\n", drawn_ ? kClearLine : "", done_, unit_.c_str(),
                 duration(seconds).c_str(), rate(done_, seconds, unit_).c_str());
    drawn_ = false;
  } else if (terminal_ && (now - last_ >= kBetweenDrawings)) {
    std::fprintf(out_, "%s%s", kClearLine, text(done_, total_, seconds, unit_).c_str());
    drawn_ = true;
    last_ = now;
  } else if (!terminal_ && now - last_ >= kBetweenLines && done_ - told_ >= (total_ + kLines - 1) / kLines) {
    std::fprintf(out_, "%s\n", text(done_, total_, seconds, unit_).c_str());
    told_ = done_;
    last_ = now;
  } else {
    return;
  }
  std::fflush(out_);
}

std::string ProgressBar::text(std::size_t done, std::size_t total, double seconds, const std::string& unit) {
  done = std::min(done, total);
  const double share = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const auto filled = static_cast<std::size_t>(share * kBarWidth);
  std::string text = '[' + std::string(filled, '#') + std::string(kBarWidth - filled, '.') + ']';
  text += format(" %zu/%zu ", done, total) + unit + format(" %3.0f %%  ", 100 * share) + rate(done, seconds, unit);
  if (done > 0) {
    text += "  " + duration(seconds * static_cast<double>(total - done) / static_cast<double>(done)) + " left";
  }
  return text;
}

}  // namespace torchfeed
