#pragma once
// One document of a corpus, without loading its table: by digest through the index, by name (or in artifacts that have no index)
// by reading through the table once. Corpus answers the same questions from memory; here they cost none.

#include <optional>
#include <string_view>

#include "data/document_index.h"

namespace overproof {

class DocumentFinder {
 public:
  explicit DocumentFinder(const fs::path& artifact);
  /// By name or by digest (hex, with or without "sha256:"), as Corpus::find. That a document is not there is never said on the
  /// word of the index alone. Throws FormatError when index and table disagree about it.
  std::optional<Document> find(std::string_view name_or_digest) const;
  int64_t window_length() const { return window_length_; }
  int64_t windows(Split split) const;

 private:
  std::optional<Document> read_through(std::string_view text, std::string_view name, const Digest* digest) const;
  SafetensorsFile stream_;
  MappedFile table_;
  std::optional<DocumentIndex> index_;
  bool is_private_ = false;
  int64_t window_length_ = 0;
};

}  // namespace overproof
