#pragma once
// A file that is complete and on the disk before it has its name, so that no reader sees half of it and two writers do not
// share a temporary file.

#include <sys/types.h>

#include <string_view>

#include "core/file.h"

namespace overproof {

class NewFile {
 public:
  /// Writes and flushes `content` without a name (O_TMPFILE) or, where the file system cannot do that, under a unique one next to
  /// `file`. Throws IoError.
  NewFile(fs::path file, std::string_view content, mode_t mode);
  ~NewFile();  ///< removes it unless it has become `file`
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  /// Becomes `file`, replacing an existing one, and flushes the folder.
  void replace();
  /// Becomes `file` unless that exists already: then false.
  bool link();

 private:
  void name_it();

  fs::path file_, temporary_;  // temporary_ empty: it has no name yet
  int descriptor_ = -1;
};

}  // namespace overproof
