#pragma once
// Bytes as a file with a path, for parsers that open and map what they read. Nothing touches the disk.

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

namespace overproof::fuzz {

class FuzzFile {
 public:
  FuzzFile(const void* data, size_t size) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0 || write(fd_, data, size) != ssize_t(size)) abort();
  }
  explicit FuzzFile(std::string_view bytes) : FuzzFile(bytes.data(), bytes.size()) {}
  ~FuzzFile() { close(fd_); }
  FuzzFile(const FuzzFile&) = delete;
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

/// What a fuzz target asserts; stays in release builds.
inline void require(bool holds) {
  if (!holds) abort();
}

}  // namespace overproof::fuzz
