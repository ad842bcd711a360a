#include "core/direct_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "core/error.h"

namespace overproof {
namespace {

constexpr int64_t kWriteBuffer = int64_t{4} << 20;
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t block_floor(int64_t n) { return n / kDiskBlock * kDiskBlock; }
int64_t block_ceil(int64_t n) { return block_floor(n + kDiskBlock - 1); }

/// Switches O_DIRECT of an open file; false where the file system has none.
bool set_direct(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && ::fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

[[noreturn]] void refuse_write(const fs::path& file, int error_number) {
  const bool full = error_number == ENOSPC || error_number == EDQUOT;
  throw IoError(file, full ? "the disk is full; free some room and run the same command again" : "cannot write", error_number);
}

struct stat status_of(int fd, const fs::path& file) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw IoError(file, "cannot read its size", errno);
  if (!S_ISREG(info.st_mode)) throw IoError(file, "is not a regular file", 0);
  return info;
}

}  // namespace

FileCalls& file_calls() {
  static FileCalls calls{::pread, ::pwrite, ::fdatasync};
  return calls;
}

Descriptor::Descriptor(const fs::path& file, int flags, mode_t mode) : fd_(::open(file.c_str(), flags | O_CLOEXEC, mode)) {
  if (fd_ < 0) throw IoError(file, flags & O_CREAT ? "cannot create" : "cannot open", errno);
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int Descriptor::close() { return ::close(std::exchange(fd_, -1)); }

void AlignedBuffer::Free::operator()(uint8_t* p) const { std::free(p); }

void AlignedBuffer::reserve(int64_t bytes) {
  if (bytes <= size_) return;
  data_.reset();
  size_ = 0;
  // The kernel pins every page of a request: huge ones are pinned in a fraction of the time.
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kDiskBlock, all = block_ceil(bytes);
  void* memory = nullptr;
  if (::posix_memalign(&memory, size_t(alignment), size_t(all)) != 0) throw std::bad_alloc();
  data_.reset(static_cast<uint8_t*>(memory));
  if (alignment == kHugePage) ::madvise(data_.get(), size_t(all), MADV_HUGEPAGE);
  size_ = all;
}

DirectReader::DirectReader(const fs::path& file) : path_(file), fd_(file, O_RDONLY | O_NONBLOCK) {
  const struct stat info = status_of(fd_.get(), file);
  size_ = int64_t(info.st_size);
  changed_s_ = int64_t(info.st_mtim.tv_sec);
  changed_ns_ = int64_t(info.st_mtim.tv_nsec);
  direct_ = set_direct(fd_.get(), true);
  if (!direct_) set_buffered();
}

void DirectReader::set_buffered() {
  set_direct(fd_.get(), false);
  direct_ = false;
  ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
}

std::span<const uint8_t> DirectReader::read(int64_t begin, int64_t end, AlignedBuffer& buffer) {
  OVERPROOF_CHECK(0 <= begin && begin <= end && end <= size_);
  const int64_t first = block_floor(begin), want = end - first;
  buffer.reserve(block_ceil(want));
  int64_t done = 0;
  while (done < want) {
    const int64_t ask = std::min(block_ceil(want) - done, kDiskRequest);
    const ssize_t got = file_calls().pread(fd_.get(), buffer.data() + done, size_t(ask), off_t(first + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EINVAL && direct_) {  // accepted at open, refused at the first read: some file systems do that
      set_buffered();
      continue;
    }
    if (got < 0) throw IoError(path_, fmt::format("cannot read at byte {}", first + done), errno);
    if (got == 0)
      throw FormatError(path_, first + done,
                        fmt::format("truncated while being read: the file had {} bytes when it was opened", size_));
    done += got;
    if (done < want && direct_ && done % kDiskBlock != 0) {
      // A direct read cannot begin inside a block. Where less than one block was read, read through the cache.
      if (got < kDiskBlock) set_buffered();
      else done = block_floor(done);
    }
  }
  return {buffer.data() + (begin - first), size_t(end - begin)};
}

void DirectReader::check_unchanged() const {
  const struct stat info = status_of(fd_.get(), path_);
  if (int64_t(info.st_size) != size_ || int64_t(info.st_mtim.tv_sec) != changed_s_ ||
      int64_t(info.st_mtim.tv_nsec) != changed_ns_)
    throw FormatError(path_, -1, "modified while being read; stop other writers and run the command again");
}

struct DirectWriter::Impl {
  Impl(const fs::path& path, int64_t kept) : file(path), fd(path, O_RDWR | O_CREAT | (kept == 0 ? O_TRUNC : 0)) {
    go_on_from(kept);
  }

  fs::path file;
  Descriptor fd;
  AlignedBuffer filling, flying;
  int64_t offset = 0;  // where `filling` begins in the file: a multiple of the block
  int64_t filled = 0;

  // Written by one thread while the other waits for `in_flight` to change.
  std::mutex mutex;
  std::condition_variable changed;
  int64_t flying_offset = 0, in_flight = 0;
  std::atomic<bool> direct = false;
  bool tried_direct = false, stopping = false;
  std::exception_ptr failure;
  std::thread worker;

  ~Impl() {
    if (!worker.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_all();
    worker.join();
  }

  void go_on_from(int64_t kept) {
    if (kept == 0) return;
    if (status_of(fd.get(), file).st_size < kept) throw IoError(file, "is shorter than the part to keep", 0);
    if (::ftruncate(fd.get(), off_t(kept)) != 0) throw IoError(file, "cannot set its length", errno);
    offset = block_floor(kept);
    filling.reserve(kWriteBuffer);
    for (filled = 0; filled < kept - offset;) {  // the block that the first new byte falls in
      const ssize_t got =
          file_calls().pread(fd.get(), filling.data() + filled, size_t(kept - offset - filled), off_t(offset + filled));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) throw IoError(file, "cannot read", got < 0 ? errno : EIO);
      filled += got;
    }
  }

  void put(const uint8_t* from, int64_t bytes, int64_t at) {
    while (bytes > 0) {
      const ssize_t wrote = file_calls().pwrite(fd.get(), from, size_t(bytes), off_t(at));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0 && errno == EINVAL && direct) {
        set_direct(fd.get(), false);
        direct = false;
        continue;
      }
      if (wrote < 0) refuse_write(file, errno);
      // After a short direct write the next one begins on a block again; the bytes in between are written twice.
      int64_t on = direct && wrote < bytes ? block_floor(wrote) : wrote;
      if (on == 0) {
        set_direct(fd.get(), false);
        direct = false;
        on = wrote;
        if (wrote == 0) refuse_write(file, EIO);
      }
      from += on;
      at += on;
      bytes -= on;
    }
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || in_flight > 0; });
      if (in_flight == 0) return;
      const int64_t bytes = in_flight;
      lock.unlock();
      std::exception_ptr caught;
      try {
        put(flying.data(), bytes, flying_offset);
      } catch (...) {
        caught = std::current_exception();
      }
      lock.lock();
      if (caught) failure = caught;
      in_flight = 0;
      changed.notify_all();
    }
  }

  void wait_until_idle() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return in_flight == 0; });
    if (failure) std::rethrow_exception(failure);
  }

  /// Hands the full buffer to the worker.
  void submit() {
    wait_until_idle();
    if (!tried_direct) {
      tried_direct = true;
      direct = set_direct(fd.get(), true);
    }
    if (!worker.joinable()) worker = std::thread([this] { work(); });
    {
      const std::lock_guard lock(mutex);
      std::swap(filling, flying);
      flying_offset = offset;
      in_flight = filled;
    }
    changed.notify_all();
    offset += filled;
    filled = 0;
  }

  void write(const uint8_t* data, int64_t bytes) {
    while (bytes > 0) {
      if (filling.size() < kWriteBuffer) filling.reserve(kWriteBuffer);
      const int64_t part = std::min(bytes, kWriteBuffer - filled);
      std::memcpy(filling.data() + filled, data, size_t(part));
      filled += part;
      data += part;
      bytes -= part;
      if (filled == kWriteBuffer) submit();
    }
  }

  /// Returns whether the file is longer than what was written to it.
  bool sync() {
    wait_until_idle();
    bool padded = false;
    if (filled > 0) {
      // Direct: the last block is padded with zeros, and written again when more data follow.
      const int64_t bytes = direct ? block_ceil(filled) : filled;
      std::memset(filling.data() + filled, 0, size_t(bytes - filled));
      padded = bytes != filled;
      put(filling.data(), bytes, offset);
    }
    while (file_calls().fdatasync(fd.get()) != 0) {
      if (errno == EINTR) continue;
      if (errno == ENOSPC || errno == EDQUOT) refuse_write(file, errno);
      throw IoError(file, "cannot flush to disk", errno);
    }
    return padded;
  }
};

DirectWriter::DirectWriter(const fs::path& file, int64_t kept) : impl_(std::make_unique<Impl>(file, kept)) {}
DirectWriter::~DirectWriter() = default;

void DirectWriter::write(const void* data, size_t bytes) { impl_->write(static_cast<const uint8_t*>(data), int64_t(bytes)); }
void DirectWriter::sync() { impl_->sync(); }
bool DirectWriter::direct() const { return impl_->direct; }

void DirectWriter::close() {
  if (impl_->sync()) {
    if (::ftruncate(impl_->fd.get(), off_t(impl_->offset + impl_->filled)) != 0)
      throw IoError(impl_->file, "cannot set its length", errno);
    if (file_calls().fdatasync(impl_->fd.get()) != 0) throw IoError(impl_->file, "cannot flush to disk", errno);
  }
  if (impl_->fd.close() != 0) throw IoError(impl_->file, "cannot close", errno);
}

}  // namespace overproof
