#pragma once
// What runs that ended early have left next to artifacts: folders to resume from, folders half filled, files of locks.

#include <string>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct ScratchItem {
  fs::path path;
  std::string artifact;  ///< the name of the artifact that it belongs to
  int64_t bytes = 0;     ///< of all files in it
  bool resumable = false;  ///< a run with the same options and inputs resumes from it
};

/// Those in `folder`, by name; none where that cannot be listed.
std::vector<ScratchItem> scratch_items(const fs::path& folder);

struct ScratchConfig {
  bool clear = false;
  template <class V>
  void visit(V&& v) {
    v("clear", clear, any_value(), "remove them; what another process is working on stays");
  }
};

/// Lists what is left in the run folder `run`, with its size, and removes it on request.
Answer run_scratch(const ScratchConfig& config, const fs::path& run);

}  // namespace overproof
