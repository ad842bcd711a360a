#pragma once
// A private temporary folder, deleted with its owner.

#include "core/file.h"

namespace overproof {

class TempFolder {
 public:
  /// Makes it in `parent`. Throws IoError.
  explicit TempFolder(const fs::path& parent = fs::temp_directory_path());
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const fs::path& path() const { return path_; }
  fs::path operator/(const fs::path& name) const { return path_ / name; }
  void empty() const;  ///< removes its content, as far as possible

 private:
  fs::path path_;
};

}  // namespace overproof
