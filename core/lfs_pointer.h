#pragma once
// Files whose content is not what was expected. Git LFS pointers: the few lines that a clone without git-lfs has instead of a large file.

#include <filesystem>
#include <string_view>

namespace overproof {

/// Whether a file that begins with `content` is a pointer. The first 64 bytes decide.
bool is_lfs_pointer(std::string_view content);

/// Throws FormatError, with the way to the file itself, when `content` begins as a pointer does, or as a web page: what a server answers where a
/// file is gone, or needs a login.
void refuse_lfs_pointer(std::string_view content, const std::filesystem::path& file);

/// "a Parquet file", of a container that no reader of texts or tables takes, by its first bytes; empty for other content.
std::string_view kind_of_container(std::string_view content);

}  // namespace overproof
