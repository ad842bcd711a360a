#include "core/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/printable.h"
#include "core/progress_note.h"

namespace overproof {
namespace {
ProgressMode g_mode = ProgressMode::automatic;

std::string duration(double seconds) {
  const auto s = int64_t(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string amount(double n, const std::string& unit) {
  if (unit == "bytes") return fmt::format("{:.1f} MB", n / 1e6);
  if (n >= 1e6) return fmt::format("{:.2f}M {}", n / 1e6, unit);
  if (n >= 1e4) return fmt::format("{:.1f}k {}", n / 1e3, unit);
  return n >= 100 || n == double(int64_t(n)) ? fmt::format("{:.0f} {}", n, unit) : fmt::format("{:.1f} {}", n, unit);
}
}  // namespace

void set_progress_mode(ProgressMode mode) { g_mode = mode; }

void progress_note(std::string_view line) {
  if (g_mode != ProgressMode::off) fmt::print(stderr, "{}\n", printable(line));
}

Progress::Progress(std::string_view label, int64_t total, std::string_view unit, int64_t already_done)
    : label_(label),
      unit_(unit),
      total_(total),
      done_(already_done),
      start_done_(already_done),
      terminal_(isatty(2) == 1),
      off_(g_mode == ProgressMode::off),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_) {}

Progress::~Progress() {
  if (!off_ && done_ > start_done_) draw(true);
}

void Progress::update(int64_t done, std::string_view note) {
  done_ = done;
  note_ = note;
  if (off_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000))) return;
  drawn_ = now;
  draw(false);
}

void Progress::draw(bool last) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double rate = seconds > 0 ? double(done_ - start_done_) / seconds : 0;
  std::string line = fmt::format("{:<12} ", label_);
  if (total_ > 0) {
    const double fraction = std::clamp(double(done_) / double(total_), 0.0, 1.0);
    if (terminal_) {
      const int filled = int(fraction * 24);
      line += '[' + std::string(size_t(filled), '=') + std::string(size_t(24 - filled), ' ') + "] ";
    }
    line += fmt::format("{:3.0f}%  ", fraction * 100);
  }
  line += amount(double(done_), unit_);
  if (rate > 0) line += fmt::format("  {}/s", amount(rate, unit_));
  if (last) line += fmt::format("  in {}", duration(seconds));
  else if (total_ > 0 && rate > 0) line += fmt::format("  ETA {}", duration(double(total_ - done_) / rate));
  if (!note_.empty()) line += "  " + note_;
  line = printable(line);  // a note may be the name of a tensor
  if (terminal_) {
    winsize size{};
    if (ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 8 && line.size() >= size.ws_col) line.resize(size.ws_col - 1);
    fmt::print(stderr, "\r\x1b[K{}{}", line, last ? "\n" : "");
  } else {
    fmt::print(stderr, "{}\n", line);
  }
  std::fflush(stderr);
}

}  // namespace overproof
