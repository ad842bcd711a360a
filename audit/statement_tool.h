#pragma once
// `overproof audit statement`: the signed statement of an artifact, decoded, for tools that read in-toto statements but no
// claims.jsonl. The bytes are those that were signed, so their digest is the same everywhere.

#include <string>

#include "core/answer.h"
#include "core/config.h"
#include "core/file.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct StatementConfig {
  std::string type = "lineage";
  fs::path out;
  TrustOptions trust;
  bool envelope = false, pretty = false;
  template <class V>
  void visit(V&& v) {
    v("type", type, any_value(),
      "which statement: lineage, signature (the OpenSSF Model Signing one), or a predicate type as in claims.jsonl");
    v("envelope", envelope, any_value(),
      "the DSSE envelope with its signature instead of the statement inside; for signature the Sigstore bundle");
    v("pretty", pretty, any_value(), "indented for people; then it is no longer what was signed, byte for byte");
    v("out", out, any_value(), "file to write instead of standard output");
    trust.visit(v);
  }
};

/// `folder`: an artifact, or a run: then one line for each artifact, parents first. Throws ProvenanceError when a signature does
/// not hold, UsageError when there is no such statement.
Answer audit_statement(const StatementConfig& config, const fs::path& folder);

}  // namespace overproof
