#include "core/private_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"

namespace overproof {
namespace {

void create_private_folders(const fs::path& folder) {
  if (folder.empty() || fs::exists(folder)) return;
  create_private_folders(folder.parent_path());
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw IoError(folder, "cannot make the folder", errno);
}

}  // namespace

bool create_private_file(const fs::path& file, std::string_view content, std::string_view what) {
  create_private_folders(file.parent_path());
  // Written under a name of its own and then linked, which fails where the file is there.
  const fs::path partial = fmt::format("{}.{}.partial", file.string(), ::getpid());
  ::unlink(partial.c_str());
  const int descriptor = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) throw IoError(file, fmt::format("cannot make {}", what), errno);
  size_t done = 0;
  int failed = 0;
  while (done < content.size() && !failed) {
    const ssize_t n = ::write(descriptor, content.data() + done, content.size() - done);
    if (n > 0) done += size_t(n);
    else if (errno != EINTR) failed = errno;
  }
  if (!failed && ::fsync(descriptor) != 0) failed = errno;
  ::close(descriptor);
  bool first = false;
  if (!failed) {
    first = ::link(partial.c_str(), file.c_str()) == 0;
    if (!first && errno != EEXIST) failed = errno;
  }
  ::unlink(partial.c_str());
  if (failed) throw IoError(file, fmt::format("cannot write {}", what), failed);
  return first;
}

void require_private(const fs::path& file, std::string_view what) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) throw IoError(file, fmt::format("cannot read {}", what), errno);
  if (S_ISREG(status.st_mode) && (status.st_mode & (S_IRWXG | S_IRWXO)))
    throw ProvenanceError(
        fmt::format("{}: others may read or change {} (mode {:04o}); run 'chmod 600 {}', and make a new one if anyone "
                    "may have copied it",
                    file.string(), what, unsigned(status.st_mode & 07777), file.string()));
}

std::string read_private_file(const fs::path& file, int64_t max_bytes, std::string_view what) {
  require_private(file, what);
  return read_file(file, max_bytes);
}

}  // namespace overproof
