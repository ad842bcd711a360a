#pragma once
// The commitment of a corpus artifact (provenance/corpus_proof.h), and proofs from it.
//
//   commitment.json     sizes and roots of the two trees; signed with the artifact, and alone as checkpoints on demand
//   tiles.safetensors   C2SP tiles, a tensor U8 [hashes, 32] for each level: "documents/0", "documents/1", ... and "sorted/1", ...
//                       Level 0 of the sorted tree is not stored: it is hashed from the keys of the index
//   index.safetensors   data/document_index.h
//
// No file depends on a note key: the artifact's root depends on inputs, configuration and build only, and checkpoints are not
// part of it.

#include <optional>
#include <string>
#include <vector>

#include "data/document_index.h"
#include "provenance/corpus_proof.h"
#include "provenance/tlog_tiles.h"

namespace overproof {

/// Collects documents in the order of the table and writes the three files. Memory: 56 bytes a document,
/// 88 if it is private, and 40 more while they are written.
class CommitmentWriter {
 public:
  explicit CommitmentWriter(std::optional<CorpusSalt> salt) : salt_(std::move(salt)) {}
  /// `record`: where its line begins in documents.jsonl.
  void add(const Digest& document, Split split, int64_t tokens, int64_t record);
  Commitment finish(OutputFolder& folder, int64_t table_bytes);

 private:
  std::optional<CorpusSalt> salt_;
  DocumentIndexBuilder index_;
  std::vector<Digest> values_;  // of the documents tree, where they differ from the keys
};

/// The commitment of an artifact, mapped.
class CorpusCommitment {
 public:
  static bool is_in(const fs::path& artifact);
  static Commitment roots_of(const fs::path& artifact);  ///< alone, without the other files
  /// `reads`: scattered for single proofs, onwards for whole trees. Throws FormatError when the files do not fit together.
  explicit CorpusCommitment(const fs::path& artifact, Reads reads = Reads::onwards);
  const Commitment& roots() const { return roots_; }
  const DocumentIndex& index() const { return index_; }
  TileTree tree(CorpusTree which) const;
  /// Stored hashes of a level; of the sorted tree from level 1 on.
  std::span<const uint8_t> stored_level(CorpusTree which, int level) const;
  /// Leaf values of the documents tree of a corpus that is not private, from `first` on.
  std::vector<Digest> document_values(int64_t first, int64_t count) const;

  /// Presence in `tree`, or absence, which the sorted tree shows; without checkpoint yet. `salt` is needed where the corpus is
  /// private. Throws UsageError when it is missing, MismatchError when the corpus was committed with another one.
  CorpusProof prove(const Digest& document, CorpusTree tree, const CorpusSalt* salt) const;

 private:
  void expect_path(CorpusTree which, int64_t index) const;
  void fill(CorpusTree which, int level, int64_t first, std::span<Digest> hashes) const;
  Commitment roots_;
  DocumentIndex index_;
  SafetensorsFile tiles_;
  std::vector<std::span<const uint8_t>> levels_[2];
};

}  // namespace overproof
