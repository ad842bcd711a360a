#pragma once
// Encoded rows of soft targets (records/row_encoding.h) that `teach` has finished, in its scratch folder until all are there: a killed
// run resumes after the last finished batch, and memory does not grow with the corpus.
//
//   batches.rows   for each batch, in order:
//                    U8 lengths[rows]    entries of each row
//                    U8 entries[...]     sum(lengths) x entry bytes
//   resume.json    records/resume.h; progress {"batches": n}
//
// A batch has `batch_rows` rows, the last one what is left of `total_rows`.

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/file.h"
#include "records/resume.h"

namespace overproof {

struct EncodedRows {
  std::vector<uint8_t> lengths, entries;
};

class BatchSpool {
 public:
  struct Shape {
    int64_t entry_bytes, batch_rows, total_rows;  ///< all >= 1
    int64_t batches() const { return (total_rows + batch_rows - 1) / batch_rows; }
    int64_t rows_of(int64_t batch) const;
  };

  /// Resumes from what a killed run of the same stage key left in `scratch`; from nothing when anything of it does not hold.
  /// Throws IoError.
  BatchSpool(const fs::path& scratch, const Digest& stage_key, const Shape& shape);

  int64_t batches() const { return batches_; }  ///< finished
  /// The next batch; on the disk when this returns. Throws IoError.
  void append(const EncodedRows& rows);

  /// Calls body(lengths [rows], entries) for each batch in order. All batches must be there. Throws FormatError when the file was changed
  /// since it was written.
  void for_each(const std::function<void(std::span<const uint8_t> lengths, std::span<const uint8_t> entries)>& body) const;

 private:
  Shape shape_;
  Resume resume_;
  OutputFolder folder_;
  std::optional<OutputFile> file_;
  int64_t batches_ = 0;
};

/// Splits the first `batches` batches of a spool's bytes and passes each to body(lengths, entries). False when the bytes are not exactly
/// these batches.
bool split_batches(std::span<const uint8_t> bytes, const BatchSpool::Shape& shape, int64_t batches,
                   const std::function<void(std::span<const uint8_t> lengths, std::span<const uint8_t> entries)>& body);

}  // namespace overproof
