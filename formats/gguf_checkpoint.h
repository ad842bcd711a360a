#pragma once
// A GGUF file seen as the Hugging Face checkpoint that it was made from: names, row order and config.json. Architectures:
// llama (also Mistral, which llama.cpp stores as llama), qwen2, qwen3, glm4moe.

#include <vector>

#include "core/json_fwd.h"
#include "formats/gguf.h"
#include "formats/tensor_source.h"

namespace overproof {

/// Tensors are dequantised as they are read. llama.cpp stores the rows of q_proj and k_proj of the llama architecture so that
/// the two halves of each head interleave; they are put back. Stacked experts appear one by one. Throws FormatError for a
/// tensor without a Hugging Face name: nothing is dropped silently.
class GgufCheckpoint : public TensorSource {
 public:
  explicit GgufCheckpoint(const fs::path& file);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<fs::path>& files() const override { return files_; }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;
  const GgufFile& gguf() const { return file_; }
  /// config.json as transformers would have it.
  Json config() const;

 private:
  struct Source {
    const GgufTensor* tensor;
    int64_t first_row = 0;     // of the expert's slice
    int64_t half_head = 0;     // rows of half a head to put back in order; 0: as stored
  };
  void add(const std::string& name, const GgufTensor& tensor, std::vector<int64_t> shape, int64_t first_row, int64_t half_head);
  void map_tensor(const GgufTensor& tensor);
  Json rope_scaling(int64_t head_dim, double theta) const;
  GgufFile file_;
  std::vector<fs::path> files_{file_.path()};
  std::string arch_;
  TensorTable table_;
  std::vector<Source> sources_;  // beside table_.list()
};

}  // namespace overproof
