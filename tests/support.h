#pragma once
// What tests of every folder share.

#include <string_view>

#include "core/temp_folder.h"

namespace overproof {

/// Makes the file and the folders above it; returns its path.
inline fs::path write_text(const fs::path& file, std::string_view text) {
  fs::create_directories(file.parent_path());
  write_file_atomically(file, text);
  return file;
}

}  // namespace overproof
