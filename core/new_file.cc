#include "core/new_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"

namespace overproof {
namespace {

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

/// 64 random bits are enough: O_EXCL and link(2) fail on a name that is taken, and another is drawn.
fs::path unique_neighbour(const fs::path& file) {
  uint64_t number = 0;
  if (::getentropy(&number, sizeof number) != 0) throw IoError(file, "cannot draw a temporary name for it", errno);
  return folder_of(file) / fmt::format(".{}.{:016x}.partial", file.filename().string(), number);
}

}  // namespace

NewFile::NewFile(fs::path file, std::string_view content, mode_t mode) : file_(std::move(file)) {
  descriptor_ = ::open(folder_of(file_).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
  for (int tries = 0; descriptor_ < 0 && tries < 100; ++tries) {
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != EEXIST) break;
    temporary_ = unique_neighbour(file_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
  }
  if (descriptor_ < 0) {
    temporary_.clear();
    throw IoError(file_, "cannot write", errno);
  }
  int failed = 0;
  for (size_t done = 0; done < content.size() && !failed;) {
    const ssize_t n = ::write(descriptor_, content.data() + done, content.size() - done);
    if (n >= 0) done += size_t(n);
    else if (errno != EINTR) failed = errno;
  }
  if (!failed && ::fsync(descriptor_) != 0) failed = errno;
  if (failed) {
    ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    throw IoError(file_, failed == ENOSPC ? "the disk is full; free some room and run the same command again" : "cannot write",
                  failed);
  }
}

NewFile::~NewFile() {
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void NewFile::name_it() {
  const std::string unnamed = fmt::format("/proc/self/fd/{}", descriptor_);
  for (int tries = 0; temporary_.empty(); ++tries) {
    const fs::path name = unique_neighbour(file_);
    if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) temporary_ = name;
    else if (errno != EEXIST || tries == 100) throw IoError(file_, "cannot write", errno);
  }
}

void NewFile::replace() {
  name_it();
  if (::rename(temporary_.c_str(), file_.c_str()) != 0) throw IoError(file_, "cannot rename into place", errno);
  temporary_.clear();
  fsync_folder(folder_of(file_));
}

bool NewFile::link() {
  name_it();
  if (::link(temporary_.c_str(), file_.c_str()) != 0) {
    if (errno == EEXIST) return false;
    throw IoError(file_, "cannot link into place", errno);
  }
  return true;
}

}  // namespace overproof
