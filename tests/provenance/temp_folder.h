#pragma once
// A folder of a test's own, removed at its end.

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "core/file.h"

namespace overproof {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "overproof-test-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline void write_text(const fs::path& file, std::string_view text) {
  fs::create_directories(file.parent_path());
  write_file_atomically(file, text);
}

}  // namespace overproof
