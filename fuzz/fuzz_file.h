#pragma once
// Bytes as files, for parsers that open and map what they read. Nothing touches the disk.

#include <sys/mman.h>
#include <unistd.h>

#include <sys/stat.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>

#include <string_view>

#include "core/temp_folder.h"

namespace overproof::fuzz {

class FuzzFile {
 public:
  FuzzFile(const void* data, size_t size) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0 || fchmod(fd_, 0600) != 0 || write(fd_, data, size) != ssize_t(size)) abort();
  }
  explicit FuzzFile(std::string_view bytes) : FuzzFile(bytes.data(), bytes.size()) {}
  ~FuzzFile() { close(fd_); }
  FuzzFile(const FuzzFile&) = delete;
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

/// A folder in memory, for parsers of several files or of a file whose name matters. It is removed when the process ends.
class FuzzFolder : public TempFolder {
 public:
  FuzzFolder() : TempFolder("/dev/shm") {}
  /// Writes a file over the one before.
  void put(const fs::path& name, std::string_view bytes) const {
    std::ofstream file(path() / name, std::ios::binary);
    file.write(bytes.data(), std::streamsize(bytes.size()));
    if (!file.flush()) abort();
  }
};

/// Removes the part before the next zero byte, or all, from the beginning of `rest`, and returns it.
inline std::string_view take_part(std::string_view& rest) {
  const size_t zero = std::min(rest.find('\0'), rest.size());
  const std::string_view part = rest.substr(0, zero);
  rest.remove_prefix(std::min(zero + 1, rest.size()));
  return part;
}

/// Removes this many bytes, or all, from the beginning of `rest`, and returns them.
inline std::string_view take_bytes(std::string_view& rest, size_t bytes) {
  const std::string_view part = rest.substr(0, bytes);
  rest.remove_prefix(part.size());
  return part;
}

/// The assertion of a fuzz target; stays in release builds.
inline void require(bool holds) {
  if (!holds) abort();
}

/// Asserts that run(2048) does not take far more than 16 times the processor time of run(128): quadratic work takes 256 times.
template <class Run>
void require_linear(const Run& run) {
  const auto seconds = [&](size_t count) {
    timespec begin{}, end{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    run(count);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    return double(end.tv_sec - begin.tv_sec) + 1e-9 * double(end.tv_nsec - begin.tv_nsec);
  };
  const double once = seconds(128);
  // Below some milliseconds the clock and the caches decide.
  require(seconds(2048) < 64 * once + 0.02);
}

}  // namespace overproof::fuzz
