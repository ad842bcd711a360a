#pragma once
// What keeps a private corpus from confirming guesses. The trees are salted (provenance/corpus_proof.h); digests of other files, and of
// what training leaves, would let any reader try guessed texts against them. So a private corpus has values that only its secret gives:
//
//   documents.jsonl, texts/*.jsonl   a member "salt" in the first record: CorpusSalt::file_salt of the file's name
//   licenses.json                    a member "salt"
//   tokens.safetensors               metadata "batch_salt": CorpusSalt::batch_salt
//
// Stages that read the corpus take the batch salt from there: batch roots of training (records/step_records.h), draws of soft
// targets and the files of an index depend on it. None of these files of a private corpus is meant to be published.

#include <optional>

#include "core/digest.h"
#include "core/file.h"

namespace overproof {

inline constexpr const char* kSaltMember = "salt";
inline constexpr const char* kBatchSalt = "batch_salt";

/// Of a corpus artifact; nothing where it is public. Throws FormatError.
std::optional<Digest> corpus_batch_salt(const fs::path& corpus);

/// SHA-256("overproof salted batch v1" | salt | root); `root` without a salt.
Digest salted_batch_root(const Digest& root, const std::optional<Digest>& salt);

/// The key of a document's draws: its digest, salted as the leaf of a private corpus is.
Digest draw_key(const Digest& document, const std::optional<Digest>& salt);

}  // namespace overproof
