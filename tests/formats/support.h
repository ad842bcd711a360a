#pragma once
// What the tests of this folder share.

#include <unistd.h>

#include <fstream>
#include <string>
#include <string_view>

#include "core/file.h"

namespace overproof::test {

struct TempFolder {
  fs::path path;
  TempFolder() {
    std::string pattern = (fs::temp_directory_path() / "overproof-XXXXXX").string();
    path = mkdtemp(pattern.data());
  }
  ~TempFolder() { fs::remove_all(path); }
  TempFolder(const TempFolder&) = delete;
};

inline fs::path put(const fs::path& file, std::string_view content) {
  std::ofstream(file, std::ios::binary).write(content.data(), std::streamsize(content.size()));
  return file;
}

}  // namespace overproof::test
