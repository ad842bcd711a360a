#pragma once
// The signed order in which the student of a run was trained.

#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "provenance/keys.h"

namespace overproof {

/// The training run behind an artifact: the nearest distillation it comes from, or the last one of a run folder.
struct FoundRun {
  std::string student_name;  ///< of the artifact that the training made
  Digest student_root;
  fs::path student, corpus, targets;
  fs::path teacher, initial;  ///< empty when they are missing
  int64_t steps = 0, batch_size = 0;
  std::string missing;  ///< why there is no order to test; then only `broken` is set
  bool broken = false;  ///< the reason is a file that is not the signed one
};

/// Does not throw on the content of an untrusted folder: `missing` has the reason. Only a signed order counts, so targets, corpus
/// and student are checked against their statements, by `trusted` or else by the keys that these name.
FoundRun find_training_run(const fs::path& folder, const PublicKey* trusted);

/// Windows of the corpus that the training read, with the position of the last visit of each (a whole number; larger is later):
/// `most` of them, spread evenly over the windows of the soft targets, whose order is independent of that of training.
struct VisitedWindows {
  std::vector<int64_t> windows;
  std::vector<double> positions;
  int64_t taught = 0;
  double epochs = 0;
};
VisitedWindows visited_windows(const Digest& order_key, int64_t corpus_windows, int64_t taught, int64_t visits, int64_t most);

}  // namespace overproof
