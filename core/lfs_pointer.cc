#include "core/lfs_pointer.h"

#include "core/error.h"

namespace overproof {

bool is_lfs_pointer(std::string_view content) { return content.starts_with("version https://git-lfs.github.com/spec/"); }

void refuse_lfs_pointer(std::string_view content, const std::filesystem::path& file) {
  if (is_lfs_pointer(content))
    throw FormatError(file, 0, "is a Git LFS pointer, not the file itself; fetch the file with 'git lfs pull', or download it again");
}

}  // namespace overproof
