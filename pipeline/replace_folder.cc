#include "pipeline/replace_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cerrno>

#include "core/error.h"

namespace overproof {
namespace {

void rename_or_throw(const fs::path& from, const fs::path& to, const char* action) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw IoError(to, action, errno);
}

bool is_there(const fs::path& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

}  // namespace

fs::path previous_folder(const fs::path& out) { return out.parent_path() / fmt::format(".{}.previous", out.filename().string()); }

void restore_previous(const fs::path& out) {
  const fs::path previous = previous_folder(out);
  if (!is_there(previous)) return;
  if (!is_there(out)) {
    rename_or_throw(previous, out, "cannot move the earlier artifact back");
    fsync_folder(out.parent_path());
    return;
  }
  std::error_code error;
  fs::remove_all(previous, error);
  if (error) throw IoError(previous, "cannot remove this folder", error.value());
}

void replace_by_two_renames(const fs::path& finished, const fs::path& out) {
  const fs::path previous = previous_folder(out);
  const bool replaces = is_there(out);
  if (replaces) {
    std::error_code error;
    fs::remove_all(previous, error);
    rename_or_throw(out, previous, "cannot move the earlier artifact aside");
  }
  if (::rename(finished.c_str(), out.c_str()) != 0) {
    const int error = errno;
    if (replaces) ::rename(previous.c_str(), out.c_str());
    throw IoError(out, "cannot move the finished artifact into place", error);
  }
  fsync_folder(out.parent_path());
  if (replaces) restore_previous(out);
}

void replace_folder(const fs::path& finished, const fs::path& out) {
  if (::renameat2(AT_FDCWD, finished.c_str(), AT_FDCWD, out.c_str(), RENAME_EXCHANGE) != 0) {
    // Nothing to exchange with; or a file system (or kernel) that cannot.
    if (errno != ENOENT && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
      throw IoError(out, "cannot move the finished artifact into place", errno);
    replace_by_two_renames(finished, out);
    return;
  }
  fsync_folder(out.parent_path());
  std::error_code ignored;  // the earlier artifact; what is left of it is removed by the next run
  fs::remove_all(finished, ignored);
}

}  // namespace overproof
