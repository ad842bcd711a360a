#pragma once
// Large sequential reads and writes past the page cache (O_DIRECT) where the file system has it. A stream of gigabytes gains
// nothing from the cache, and loses half its speed to filling it. Elsewhere (tmpfs, some network disks) the same calls go
// through the cache; direct() says which it was.

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

namespace overproof {

namespace fs = std::filesystem;

/// What O_DIRECT wants addresses, offsets and lengths to be multiples of: the largest logical block of disks in use.
inline constexpr int64_t kDiskBlock = 4096;
/// Bytes of one request to the disk: beyond this, rates no longer grow.
inline constexpr int64_t kDiskRequest = int64_t{8} << 20;

/// The system calls underneath, so that tests can have a disk that is full, slow or stutters.
struct FileCalls {
  ssize_t (*pread)(int fd, void* to, size_t bytes, off_t at);
  ssize_t (*pwrite)(int fd, const void* from, size_t bytes, off_t at);
  int (*fdatasync)(int fd);
};
FileCalls& file_calls();

/// An open descriptor; closes itself.
class Descriptor {
 public:
  /// open(2) with O_CLOEXEC; throws IoError.
  Descriptor(const fs::path& file, int flags, mode_t mode = 0644);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  int get() const { return fd_; }
  int close();

 private:
  int fd_;
};

/// Memory that O_DIRECT takes. Grows without keeping its content.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t bytes) { reserve(bytes); }
  void reserve(int64_t bytes);
  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t[], Free> data_;
  int64_t size_ = 0;
};

/// Reads any ranges of a regular file. One thread at a time.
class DirectReader {
 public:
  explicit DirectReader(const fs::path& file);  ///< throws IoError
  const fs::path& path() const { return path_; }
  int64_t size() const { return size_; }  ///< when it was opened
  bool direct() const { return direct_; }
  /// Bytes [begin, end) of the file, in `buffer`, which is enlarged when it is too small. Throws IoError, and FormatError when
  /// the file has become shorter.
  std::span<const uint8_t> read(int64_t begin, int64_t end, AlignedBuffer& buffer);
  /// Throws FormatError when somebody wrote to the file since it was opened, as far as size and time of change tell.
  void check_unchanged() const;

 private:
  void set_buffered();
  fs::path path_;
  Descriptor fd_;
  bool direct_ = false;
  int64_t size_ = 0, changed_s_ = 0, changed_ns_ = 0;
};

/// Writes a file from its beginning to its end, the disk working while the caller fills the next buffer. Small files never
/// bother with O_DIRECT. Nothing is removed when writing fails: that is up to the owner.
class DirectWriter {
 public:
  /// `kept` bytes of an existing file stay and are gone on from; 0 makes an empty file. Throws IoError, as all that follows.
  explicit DirectWriter(const fs::path& file, int64_t kept = 0);
  ~DirectWriter();
  DirectWriter(const DirectWriter&) = delete;
  DirectWriter& operator=(const DirectWriter&) = delete;
  void write(const void* data, size_t bytes);
  /// All bytes so far are on the disk when this returns (fdatasync). The file may be up to a block longer for the time being.
  void sync();
  /// sync(), the exact length, close.
  void close();
  bool direct() const;  ///< whether the last large write was

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace overproof
