#pragma once
// A progress bar with rate and ETA on standard error: redrawn in place on a terminal, a line every ten seconds elsewhere.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace overproof {

enum class ProgressMode { automatic, off };
void set_progress_mode(ProgressMode mode);

class Progress {
 public:
  /// `unit` names what is counted ("tokens", "bytes", "documents"); bytes are printed as MB. total <= 0: unknown.
  Progress(std::string_view label, int64_t total, std::string_view unit, int64_t already_done = 0);
  ~Progress();  // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Sets the amount done so far; `note` is shown after the ETA ("loss 2.31, balance 1.2").
  void update(int64_t done, std::string_view note = {});

 private:
  void draw(bool last);
  std::string label_, unit_, note_;
  int64_t total_, done_, start_done_;
  bool terminal_, off_;
  std::chrono::steady_clock::time_point start_, drawn_;
};

}  // namespace overproof
