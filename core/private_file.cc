#include "core/private_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"
#include "core/new_file.h"

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
  try {
    return NewFile(file, content, 0600).link();
  } catch (const IoError& e) {
    throw IoError(file, fmt::format("cannot write {} ({})", what, e.what()), 0);
  }
}

void require_private(const fs::path& file, std::string_view what) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) throw IoError(file, fmt::format("cannot read {}", what), errno);
  if (S_ISREG(status.st_mode) && (status.st_mode & (S_IRWXG | S_IRWXO)))
    throw ProvenanceError(
        fmt::format("{}: others may read or change {} (mode {:04o}); run 'chmod 600 {}', and make a new one if it "
                    "may have been copied",
                    file.string(), what, unsigned(status.st_mode & 07777), file.string()));
}

std::string read_private_file(const fs::path& file, int64_t max_bytes, std::string_view what) {
  require_private(file, what);
  return read_file(file, max_bytes);
}

}  // namespace overproof
