#pragma once
// Single documents of a corpus, without loading its table: by digest, name, place and token through the index, each read from its
// own line. Artifacts that have no index are loaded whole instead.

#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "data/document_index.h"

namespace overproof {

class DocumentFinder {
 public:
  /// Throws FormatError when index, table and token streams are not of one size.
  /// `reads`: how documents will be asked for.
  explicit DocumentFinder(const fs::path& artifact, Reads reads = Reads::scattered);
  /// By name or by digest (hex, with or without "sha256:"), as Corpus::find; what is a digest is never looked for as a name. A document is never reported as missing on the
  /// word of the index alone: then the table is read through. Throws FormatError when index and table disagree about it.
  std::optional<Document> find(std::string_view name_or_digest) const;

  int64_t documents() const;
  /// By place in the table. Throws FormatError when index and table disagree about it.
  Document document(int64_t ordinal) const;
  TokenRange tokens(int64_t ordinal) const;  ///< from the index; document() compares it with the table
  /// The documents that hold tokens [first, end) of a split's stream, in order.
  std::vector<Document> at(Split split, int64_t first, int64_t end) const;

  int64_t window_length() const { return window_length_; }
  int64_t windows(Split split) const;

 private:
  std::string_view line(int64_t ordinal) const;
  std::optional<Document> by_name(std::string_view name) const;
  std::optional<Document> read_through(std::string_view text, std::string_view name, const Digest* digest) const;
  const Corpus& loaded() const;
  fs::path artifact_;
  SafetensorsFile stream_;
  MappedFile table_;
  std::optional<DocumentIndex> index_;
  mutable std::once_flag load_once_;
  mutable std::unique_ptr<Corpus> corpus_;  // loaded where there is no index, once it is needed
  bool is_private_ = false;
  int64_t window_length_ = 0;
};

}  // namespace overproof
