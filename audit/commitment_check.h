#pragma once
// Compares a corpus's commitment with its table, document by document. The files' digests only show that nothing changed since
// the maker signed; this shows that he did not commit to something else than he kept.

#include <vector>

#include "provenance/artifact.h"
#include "provenance/corpus_proof.h"

namespace overproof {

struct CommitmentCheck {
  std::vector<Fault> faults;
  /// The corpus is private and no secret was given: trees and index were compared with each other, but not with the
  /// table's digests.
  bool values_unchecked = false;
};

/// Reads documents.jsonl line by line and makes both trees again: every leaf, every stored hash, both roots, that the sorted tree
/// is strictly ascending and of the same documents, and every entry of the index. Of an artifact without commitment (made by an
/// earlier version) nothing is reported. Bad files are faults, too. Memory: about 0.3 bytes a document.
CommitmentCheck check_commitment(const fs::path& corpus, const CorpusSalt* salt);

}  // namespace overproof
