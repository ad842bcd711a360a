#pragma once
// A lock between processes: a file that exists while the lock is held. A process that is killed releases it.

#include "core/file.h"

namespace overproof {

class FileLock {
 public:
  enum class Busy {
    fails,  ///< when another process holds it: throw IoError with `busy` as its text
    waits,
  };
  /// `file` is created, and removed when the lock is released. `subject` and `busy` are for the error: «subject: busy».
  FileLock(const fs::path& file, Busy when_busy, const fs::path& subject = {}, std::string_view busy = {});
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  fs::path file_;
  int fd_ = -1;
};

}  // namespace overproof
