#pragma once
// corpus/index.safetensors: finds documents by digest, place and token without reading the table. n documents, 64 bytes each:
//
//   keys      U8  [n, 32]  values of the sorted tree, strictly ascending: digests, or salted values where the corpus is private
//   train     I64 [n + 1]  training tokens before each document of the table, and all of them at the end
//   held_out  I64 [n + 1]  the same of the held-out stream; a document adds to exactly one of the two
//   records   I64 [n + 1]  where each document's line of documents.jsonl begins, and where the file ends
//   ordinals  U32 [n]      keys[r] belongs to the document of this place in the table (I64 where n is 2^32 or more)
//   ranks     U32 [n]      its inverse
//
// The file is mapped: an answer touches a few pages of it, however many documents there are.

#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"

namespace overproof {

/// A document's tokens in its split's stream.
struct TokenRange {
  Split split = Split::train;
  int64_t first = 0, count = 0;
};

class DocumentIndex {
 public:
  static bool is_in(const fs::path& artifact);
  explicit DocumentIndex(const fs::path& artifact,
                         Reads reads = Reads::onwards);  ///< throws FormatError on shapes that do not fit together

  int64_t documents() const { return documents_; }
  Digest key(int64_t rank) const;
  /// The number of keys below `key`: its rank if it is present. Reads few pages, as keys are spread evenly.
  int64_t lower_bound(const Digest& key) const;
  /// The place in the table of the document with this key.
  std::optional<int64_t> find(const Digest& key) const;
  // The numbers below come from the file: invalid ones throw FormatError.
  int64_t ordinal(int64_t rank) const;
  int64_t rank(int64_t ordinal) const;
  TokenRange tokens(int64_t ordinal) const;
  int64_t stream_tokens(Split split) const;  ///< all of them
  /// The document that holds token `position` of the split's stream.
  int64_t at(Split split, int64_t position) const;
  /// The places of the documents that window `window` reads, inputs and labels: tokens [window x length, window x length +
  /// length].
  std::vector<int64_t> in_window(Split split, int64_t window, int64_t length) const;
  std::pair<int64_t, int64_t> record(int64_t ordinal) const;  ///< begin and end of its line in documents.jsonl

  const fs::path& path() const { return file_.path(); }

 private:
  [[noreturn]] void fail(std::string_view cause) const;
  int64_t place(std::span<const uint32_t> narrow, std::span<const int64_t> wide, int64_t i) const;
  SafetensorsFile file_;
  int64_t documents_ = 0;
  std::span<const uint8_t> keys_;
  std::span<const int64_t> tokens_[2], records_, wide_ordinals_, wide_ranks_;
  std::span<const uint32_t> ordinals_, ranks_;
};

/// Collects documents in the order of the table: 56 bytes of memory each, and 40 more while they are written.
class DocumentIndexBuilder {
 public:
  /// `record`: where its line begins in documents.jsonl.
  void add(const Digest& key, Split split, int64_t tokens, int64_t record);
  int64_t documents() const { return int64_t(keys_.size()); }
  const Digest& key(int64_t ordinal) const { return keys_[size_t(ordinal)]; }
  /// Sorts, and writes the file. `table_bytes`: of documents.jsonl. Throws MismatchError when two documents have the same key.
  void write(OutputFolder& folder, int64_t table_bytes);
  /// After write(): the document whose key has this rank.
  int64_t ordinal(int64_t rank) const { return ordinals_[size_t(rank)]; }

 private:
  void sort();
  std::vector<Digest> keys_;
  std::vector<int64_t> tokens_[2], records_, ordinals_;
  int64_t total_[2] = {0, 0};
};

}  // namespace overproof
