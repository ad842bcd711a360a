#include "pipeline/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.h"

namespace overproof {
namespace {

/// Whether the open file is the one that `file` names now.
bool is_current(int fd, const fs::path& file) {
  struct stat open_file, named_file;
  return ::fstat(fd, &open_file) == 0 && ::stat(file.c_str(), &named_file) == 0 && open_file.st_dev == named_file.st_dev &&
         open_file.st_ino == named_file.st_ino;
}

}  // namespace

FileLock::FileLock(const fs::path& file, Busy when_busy, const fs::path& subject, std::string_view busy) : file_(file) {
  while (true) {
    fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw IoError(file, "cannot create this lock file", errno);
    int result;
    do result = ::flock(fd_, LOCK_EX | (when_busy == Busy::fails ? LOCK_NB : 0));
    while (result != 0 && errno == EINTR);
    if (result != 0) {
      const int error = errno;
      ::close(std::exchange(fd_, -1));
      if (error == EWOULDBLOCK) throw IoError(subject, busy, 0);
      throw IoError(file, "cannot lock this file", error);
    }
    // The holder before us may have removed the file after we opened it: then this is a lock on a file without a name, and another
    // process can hold the one that has it.
    if (is_current(fd_, file)) return;
    ::close(std::exchange(fd_, -1));
  }
}

FileLock::~FileLock() {
  if (is_current(fd_, file_)) ::unlink(file_.c_str());  // before it is released: no other process holds it yet
  ::close(fd_);
}

}  // namespace overproof
