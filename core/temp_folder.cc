#include "core/temp_folder.h"

#include <cerrno>
#include <cstdlib>

#include "core/error.h"

namespace overproof {

TempFolder::TempFolder(const fs::path& parent) {
  std::string name = (parent / "overproof-XXXXXX").string();
  if (!mkdtemp(name.data())) throw IoError(parent, "cannot make a temporary folder", errno);
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void TempFolder::empty() const {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, ignored)) fs::remove_all(entry.path(), ignored);
}

}  // namespace overproof
