#include "core/lfs_pointer.h"

#include "core/error.h"

namespace overproof {

bool is_lfs_pointer(std::string_view content) { return content.starts_with("version https://git-lfs.github.com/spec/"); }

void refuse_lfs_pointer(std::string_view content, const std::filesystem::path& file) {
  if (is_lfs_pointer(content))
    throw FormatError(file, 0, "is a Git LFS pointer, not the file itself; fetch the file with 'git lfs pull', or download it again");
  if (content.starts_with("<!DOCTYPE") || content.starts_with("<!doctype") || content.starts_with("<html"))
    throw FormatError(file, 0, "is a web page, not the file itself; look at it in a browser for the reason, and download the file again");
}

}  // namespace overproof
