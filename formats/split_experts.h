#pragma once
// A checkpoint that stacks its experts in three-dimensional tensors, seen expert by expert: every weight is a matrix, under the
// name that transformers saves and vLLM and SGLang look for.

#include <memory>

#include "formats/architecture.h"
#include "formats/integer_codes.h"
#include "formats/safetensors_checkpoint.h"

namespace overproof {

/// Each fused tensor is replaced by its parts; the others keep name and place. Values, dtypes and bytes do not change.
class SplitExperts : public TensorSource, public IntegerCodes {
 public:
  /// `stored` is where `source` takes the bytes of unquantised tensors from (it may be `source` itself) and outlives this.
  /// Throws FormatError when a part's name is taken, or a fused tensor's shape contradicts its name.
  SplitExperts(std::unique_ptr<TensorSource> source, const SafetensorsCheckpoint& stored, const Architecture& architecture,
               const fs::path& folder);
  /// False when nothing in `source` would be split or renamed.
  static bool needed(const TensorSource& source, const Architecture& architecture, const fs::path& folder);

  /// Modules of the parts: their names without ".weight".
  std::vector<std::string> split_modules() const;
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<fs::path>& files() const override { return source_->files(); }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;
  /// Of whole tensors of the source.
  std::optional<CodeLayout> code_layout(std::string_view name) const override;
  void read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const override;

 private:
  struct Origin {
    std::string name;  ///< in source_
    bool is_part = false;
    int64_t offset = 0;  ///< bytes from the fused tensor's first to the part's first
  };
  const Origin& origin(const TensorInfo& tensor) const { return origins_[table_.index_of(tensor)]; }
  std::unique_ptr<TensorSource> source_;
  const SafetensorsCheckpoint& stored_;
  fs::path folder_;
  TensorTable table_;
  std::vector<Origin> origins_;  // in the order of table_.list()
};

}  // namespace overproof
