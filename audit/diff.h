#pragma once
// `overproof audit diff A B`: what changed between two lineages: artifacts, configurations, inputs, files, metrics, builds,
// signers, documents and licences. Artifacts are paired by name; two that are asked for by themselves are a pair whatever they
// are called.

#include <string>

#include "audit/facts.h"
#include "core/answer.h"
#include "core/config.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct DiffConfig {
  TrustOptions trust;
  int64_t most = 20;
  template <class V>
  void visit(V&& v) {
    v("most", most, in_range(0, 1'000'000), "list at most so many documents and files of a kind; --json lists all");
    trust.visit(v);
  }
};

/// {"same", "only_in_a", "only_in_b", "changed": [{"artifact", "fields": {...}}]}
Json lineage_diff(const LineageFacts& a, const LineageFacts& b);

/// Exit code 0 whatever the answer is. Throws ProvenanceError where either does not hold.
Answer audit_diff(const DiffConfig& config, const fs::path& a, const fs::path& b);

}  // namespace overproof
