#pragma once
// The artifact of stage `index`: a corpus's texts sorted, so that the documents which hold a passage are found without reading
// them all. Mapped, never loaded.
//
//   documents.safetensors       first_byte    I64 [documents + 1]  where each document begins in all texts joined, in the order of
//                                                                  the corpus's table, each followed by a byte FF (not in UTF-8)
//                               record_offset I64 [documents]      of its line in the corpus's documents.jsonl
//                               metadata: corpus_root, shards, format_version
//   suffixes-00000.safetensors  a shard of whole documents
//                               suffixes      U32 [words]          sorted (data/suffix_array.h), from the start of `text`
//                               text          U8 [bytes]
//                               metadata: first_byte
//
// A verbatim passage is found as OLMoTrace does (Liu et al. 2025, arXiv 2504.07096; infini-gram, arXiv 2401.17377), but over
// bytes and not over tokens, so that the result does not depend on how a tokenizer splits the ends of a passage.

#include <memory>
#include <string>
#include <vector>

#include "core/digest.h"
#include "data/suffix_array.h"
#include "formats/safetensors.h"

namespace overproof {

/// The longest text that is looked up at once.
inline constexpr int64_t kLongestQuery = int64_t{1} << 20;

struct SpanQuery {
  int64_t min_words = 8, min_bytes = 32;  ///< of a span that is reported
  int64_t max_documents = 10;             ///< listed of each span
};

struct SpanHit {
  int64_t document = 0;  ///< in the order of the corpus's table
  int64_t byte = 0;      ///< in the document's text
};

/// A span of whole words of the query that is in the corpus verbatim, and is not part of a longer one.
struct MatchedSpan {
  int64_t begin = 0, end = 0, words = 0;  ///< bytes [begin, end) of the text
  int64_t occurrences = 0;                ///< in the whole corpus, exactly
  bool more_documents = false;            ///< than are listed
  std::vector<SpanHit> hits;              ///< the first place in each document, by document
};

class SpanIndex {
 public:
  /// Throws FormatError when its files do not belong together.
  explicit SpanIndex(const fs::path& artifact);
  const Digest& corpus_root() const { return corpus_root_; }
  int64_t documents() const { return int64_t(record_offset_.size()); }
  int64_t bytes() const;  ///< of all texts
  int64_t words() const;
  int64_t shards() const { return int64_t(shards_.size()); }

  /// All maximal spans of `text` (UTF-8, at most kLongestQuery bytes; throws UsageError), in order. Starts of
  /// words are looked up by binary search in every shard at once: no more of them than it takes to be sure that no other span is
  /// long enough.
  std::vector<MatchedSpan> find(std::string_view text, const SpanQuery& query) const;

  /// In place. Throws FormatError when the tables contradict each other there.
  std::string_view text_of(int64_t document) const;
  int64_t record_offset(int64_t document) const { return record_offset_[size_t(document)]; }

 private:
  struct Shard {
    std::unique_ptr<SafetensorsFile> file;
    int64_t first_byte;
    SuffixArray suffixes;
  };
  class Ends;
  SpanHit hit_at(const Shard& shard, int64_t position) const;
  void list_documents(std::string_view text, const SpanQuery& query, std::vector<MatchedSpan>& spans) const;
  SafetensorsFile table_;
  std::span<const int64_t> first_byte_, record_offset_;
  std::vector<Shard> shards_;
  Digest corpus_root_;
};

std::string shard_file_name(int64_t shard);

}  // namespace overproof
