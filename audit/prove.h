#pragma once
// `overproof audit prove`, `audit check-proof`, `audit checkpoint`, `audit salt`: whether a document was in the corpus, shown to
// the holder of a public key. audit/corpus_proofs.h does the work.

#include "audit/corpus_proofs.h"
#include "core/answer.h"

namespace overproof {

/// Throws UsageError unless exactly one of --document and --older is given, and as prove_document and prove_consistency.
Answer audit_prove(const ProveConfig& config, const fs::path& folder);

/// Exit code 4 when the proof does not hold. Throws as check_proof.
Answer audit_check_proof(const CheckProofConfig& config, const fs::path& proof);

Answer audit_checkpoint(const CheckpointConfig& config, const fs::path& folder);

struct SaltConfig {
  fs::path out;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "the file to make; it must not exist");
  }
};

/// Makes the secret of a private corpus.
Answer audit_salt(const SaltConfig& config);

}  // namespace overproof
