#pragma once
// A folder to work in that nobody else has, gone with all that is in it when its owner goes.

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
  void empty() const;  ///< removes what is in it, as far as it can

 private:
  fs::path path_;
};

}  // namespace overproof
