#pragma once
// Ids of the documents that `sample` has drawn so far, in its scratch folder until all are there: a killed run resumes after the last
// saved document.
//
//   drawn.jsonl   one JSON array of ids per document
//   resume.json   records/resume.h; progress {"documents": n}

#include <cstdint>
#include <optional>
#include <vector>

#include "core/file.h"
#include "records/resume.h"

namespace overproof {

class DocumentSpool {
 public:
  /// Resumes from what a killed run of the same stage key left in `scratch`: at most `count` documents of ids in [0, vocabulary). From
  /// nothing when anything of it does not hold. Throws IoError.
  DocumentSpool(const fs::path& scratch, const Digest& stage_key, int64_t count, int64_t vocabulary);

  const std::vector<std::vector<int32_t>>& documents() const { return documents_; }
  void append(std::vector<int32_t> ids);
  /// Everything appended so far is on the disk when this returns. Throws IoError.
  void save();

 private:
  Resume resume_;
  OutputFolder folder_;
  std::optional<OutputFile> file_;
  std::vector<std::vector<int32_t>> documents_;
};

/// The documents of drawn.jsonl, `text` being all of it; nothing unless it is such text with ids in [0, vocabulary).
std::optional<std::vector<std::vector<int32_t>>> parse_drawn_documents(std::string_view text, int64_t vocabulary);

}  // namespace overproof
