#pragma once
// Large sequential reads and writes past the page cache (O_DIRECT) where the file system has it. A stream of gigabytes gains
// nothing from the cache, and loses half its speed to filling it. Elsewhere (tmpfs, some network disks) the same calls go
// through the cache; direct() returns which was used.

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

namespace overproof {

namespace fs = std::filesystem;

/// O_DIRECT needs addresses, offsets and lengths that are multiples of this: the largest logical block of disks in use.
inline constexpr int64_t kDiskBlock = 4096;
/// Bytes of one request to the disk: beyond this, rates no longer grow.
inline constexpr int64_t kDiskRequest = int64_t{8} << 20;

/// The system calls used, replaceable so that tests can simulate a full disk, errors and short writes.
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

/// Memory aligned for O_DIRECT. Growing discards the content.
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
  /// Throws FormatError when the size or the time of change differs from when the file was opened.
  void check_unchanged() const;

 private:
  void set_buffered();
  fs::path path_;
  Descriptor fd_;
  bool direct_ = false;
  int64_t size_ = 0, changed_s_ = 0, changed_ns_ = 0;
};

/// Writes a file from its beginning to its end; the disk writes one buffer while the caller fills the next. Small files do not
/// use O_DIRECT. When writing fails, removing the file is up to the owner.
class DirectWriter {
 public:
  /// Keeps the first `kept` bytes of an existing file and appends to them; 0 makes an empty file. All members throw IoError.
  explicit DirectWriter(const fs::path& file, int64_t kept = 0);
  ~DirectWriter();
  DirectWriter(const DirectWriter&) = delete;
  DirectWriter& operator=(const DirectWriter&) = delete;
  void write(const void* data, size_t bytes);
  /// All bytes so far are on the disk when this returns (fdatasync). Until close() the file may be up to a block longer.
  void sync();
  /// sync(), the exact length, close.
  void close();
  bool direct() const;  ///< whether the last large write was

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace overproof
