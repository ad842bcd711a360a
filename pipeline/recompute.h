#pragma once
// `overproof audit recompute`: makes artifacts again from their parents, by the configuration in their statements, and holds the
// files against those that were signed, byte for byte by their digests. Metrics are compared too: a number that nobody gets again
// is no result.
//
// Each is made from the parents that are there, not from what was just made again: so one forged artifact is one finding.

#include <iosfwd>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/digest.h"
#include "core/file.h"
#include "core/json_fwd.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct RecomputeConfig {
  std::string stages = "tiny-teacher,corpus,observe,student,prune,activations,quantize,export,evaluate";
  std::string file, work;
  TrustOptions trust;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("stages", stages, any_value(),
      "which stages of a run to make again, a list, or all; training and teaching are sampled by audit replay and audit rows. An "
      "artifact "
      "named alone is always made again");
    v("file", file, any_value(), "inputs from outside, SLOT=PATH or ARTIFACT.SLOT=PATH apart by commas, such as source=texts");
    v("work", work, any_value(), "folder to work in, with room for the largest artifact; empty: the system's temporary folder");
    trust.visit(v);
    record.visit(v);
  }
};

struct Recomputed {
  std::string artifact, stage;
  Digest root;
  enum class Status { equal, differs, not_made } status = Status::not_made;
  std::vector<std::string> details;  ///< what differs, or why it was not made
};

struct Recomputation {
  std::vector<Recomputed> artifacts;  ///< parents before children
  std::vector<std::string> notes;
  bool holds() const;  ///< nothing differs; what was not made says nothing
  Json to_json() const;
};

/// `folder` is a run or one artifact with its parents beside it. Throws UsageError for stages or files that do not exist.
Recomputation recompute(const RecomputeConfig& config, const fs::path& folder);

/// Recomputes and prints. Returns 0, or 4 when anything differs.
int audit_recompute(const RecomputeConfig& config, const fs::path& folder, bool json, std::ostream& out);

}  // namespace overproof
