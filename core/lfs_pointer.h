#pragma once
// Git LFS pointers: the few lines that a clone without git-lfs has instead of a large file.

#include <filesystem>
#include <string_view>

namespace overproof {

/// Whether a file that begins with `content` is a pointer. The first 64 bytes decide.
bool is_lfs_pointer(std::string_view content);

/// Throws FormatError, with the way to the file itself, when `content` begins as a pointer does, or as a web page: what a server answers where a
/// file is gone, or needs a login.
void refuse_lfs_pointer(std::string_view content, const std::filesystem::path& file);

}  // namespace overproof
