#pragma once
// run.json in a run folder: the summary of each artifact when it was made, so that a later run can print it again. Timings differ
// from run to run, so none of it is in an artifact or signed, and none of it is trusted.

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
  /// The summary of the artifact with that root; empty where the file has none.
  std::vector<std::string> recall(const std::string& artifact, const Digest& root) const;

 private:
  fs::path file_, lock_;
};

/// The summary of an artifact, from the run.json of the folder that it is in.
std::vector<std::string> recall_summary(const fs::path& artifact, const Digest& root);

}  // namespace overproof
