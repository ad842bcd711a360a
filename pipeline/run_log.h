#pragma once
// run.json in a run folder: the summary of each artifact and the time that it took, as they were when it was made, for people and
// benchmarks. Timings differ from run to run, so none of it is in an artifact or signed, and this program never reads it as a result.

#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"

namespace overproof {

struct RunLogEntry {
  Digest root;
  double seconds = 0;
  std::vector<std::string> summary;
};

class RunLog {
 public:
  explicit RunLog(const fs::path& run) : file_(run / "run.json"), lock_(run / ".run.json.lock") {}
  /// Adds or replaces one artifact's entry. Other processes may add entries to the same file at the same time.
  void remember(const std::string& artifact, const RunLogEntry& entry) const;

 private:
  fs::path file_, lock_;
};

}  // namespace overproof
