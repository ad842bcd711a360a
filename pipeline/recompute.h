#pragma once
// `overproof audit recompute`: makes artifacts again from their parents, with the configuration in their statements, and compares
// the digests of the files with those that were signed. Metrics are compared too.
//
// Each artifact is made from the parents in the run, not from those that were just made again: one forged artifact is one finding.

#include <string>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "core/digest.h"
#include "core/file.h"
#include "pipeline/needs.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct RecomputeConfig {
  StringList stages;  ///< empty: every stage whose lineage kind is shown by recomputing
  StringMap file;
  fs::path work;
  TrustOptions trust;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("stages", stages, any_value(),
      "stages of a run to make again, comma-separated, or all; empty: every stage that audit replay and audit rows do not sample. An "
      "artifact that is named alone is always made again");
    v("file", file, any_value(), "inputs from outside, comma-separated SLOT=PATH or ARTIFACT.SLOT=PATH, such as source=texts");
    v("work", work, any_value(),
      "folder for temporary files, with space for the largest artifact; empty: the system's temporary folder");
    trust.visit(v);
    record.visit(v);
  }
};

struct Recomputed {
  std::string artifact, stage;
  Digest root;
  enum class Status {
    equal,
    differs,
    not_made,  ///< it should have been made again, and could not be
    left,      ///< to another check, or not asked for
  } status = Status::not_made;
  std::vector<std::string> details;  ///< what differs, or why the artifact was not made again
  std::optional<Digest> statement = {};  ///< Lineage::statement of what was examined
};

struct Recomputation {
  std::vector<Recomputed> artifacts;  ///< parents before children
  std::vector<std::string> notes;
  bool holds() const;  ///< every artifact that was asked for was made again and is equal
  Json to_json() const;
};

/// `folder` is a run or one artifact with its parents next to it. Each artifact is made with the number of threads in its
/// statement; the process's number is restored. Throws UsageError for stages or files that do not exist.
Recomputation recompute(const RecomputeConfig& config, const fs::path& folder);

/// What the stages need that recompute() would run.
Needs recompute_needs(const RecomputeConfig& config, const fs::path& folder);

/// Recomputes, and signs the result if the configuration asks for a record. Exit code 4 when an artifact differs, or could not be made
/// again: nothing is shown of that one.
Answer audit_recompute(const RecomputeConfig& config, const fs::path& folder);

}  // namespace overproof
