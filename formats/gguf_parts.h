#pragma once
// A checkpoint seen as the parts of a GGUF file, in the file's order: a TensorSource for a streaming engine that knows tensors and
// rows, but not GGUF.

#include <map>
#include <memory>
#include <vector>

#include "formats/gguf_plan.h"

namespace overproof {

/// Reads a part in its stored order. A part that cannot be read row by row (transposed, or inside a fused tensor,
/// whose rows are whole experts) is read whole by the constructor: the memory of one expert. Thread-safe once made.
class GgufPartReader {
 public:
  GgufPartReader(const TensorSource& source, const GgufPart& part);
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  /// Stored rows [first, first + rows) of the part; out.size() is rows x columns.
  void read(int64_t first, int64_t rows, std::span<float> out) const;

 private:
  void scale(std::span<float> values) const;  // by the part's factor
  const TensorSource& source_;
  const GgufPart& part_;
  int64_t rows_, columns_;
  std::vector<float> held_;
};

/// One tensor for each part of the plan's outputs, [rows, columns] or [n], called like the output, with "#k" behind it for the
/// k-th of several. Rows come in the order in which they are stored. Values that the plan computes are tensors here, too.
/// `source` and `plan` must outlive this.
class GgufParts final : public TensorSource {
 public:
  GgufParts(const TensorSource& source, const GgufPlan& plan);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<std::filesystem::path>& files() const override { return source_.files(); }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;

  /// The output that tensor `index` of tensors() is a part of, and the source tensor it is made of; null for computed values.
  const GgufOutput& output_of(size_t index) const { return *entries_[index].output; }
  const std::string* source_of(size_t index) const { return entries_[index].part ? &entries_[index].part->source : nullptr; }

 private:
  struct Entry {
    const GgufOutput* output;
    const GgufPart* part;   // null: output->values
    bool by_rows = false;   // rows of the source's own, at most interleaved: they can be streamed
    bool of_stack = false;  // rows inside the experts of a fused tensor, stored as they are: they can be streamed, too
  };
  std::optional<RowExtent> extent_in_stack(const GgufPart& part) const;
  const Entry& entry(const TensorInfo* tensor) const { return entries_[table_.index_of(*tensor)]; }
  const TensorSource& source_;
  TensorTable table_;
  std::vector<Entry> entries_;  // in the order of table_.list()
};

}  // namespace overproof
