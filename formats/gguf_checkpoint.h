#pragma once
// A GGUF file seen as the Hugging Face checkpoint that it was made from: names, row order and config.json. Architectures: those
// of formats/gguf_names.h; llama.cpp treats a Mistral as a llama, so it is read as one.

#include <vector>

#include "core/json_fwd.h"
#include "formats/gguf.h"
#include "formats/gguf_names.h"
#include "formats/tensor_source.h"

namespace overproof {

/// Tensors are dequantised as they are read. llama.cpp stores the rows of q_proj and k_proj of the llama architecture so that
/// the two halves of each head interleave; the rows are put back in order. Stacked experts appear one by one, or two halves in one tensor
/// where transformers has it so. Throws FormatError for a tensor without a Hugging Face name: no tensor is dropped silently.
class GgufCheckpoint : public TensorSource, public IntegerCodes {
 public:
  /// `file` may be any part of a split model, whose parts lie next to it ("NAME-00001-of-00003.gguf", as llama-gguf-split names them).
  /// The keys are those of the first part.
  explicit GgufCheckpoint(const fs::path& file);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;
  const std::vector<fs::path>& files() const override { return files_; }
  std::optional<RowExtent> extent(std::string_view name) const override;
  void decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                   std::span<float> out) const override;
  /// Of matrices in a quantised type.
  std::optional<CodeLayout> code_layout(std::string_view name) const override;
  void read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const override;
  const GgufFile& gguf() const { return file_; }
  /// The config.json of transformers for this model.
  Json config() const;

 private:
  struct Source {
    const GgufTensor* tensor = nullptr;
    const GgufTensor* second = nullptr;  // the second source of the tensor, whose rows are then not stored in one place
    int64_t first_row = 0;               // of the expert's slice
    int64_t half_head = 0;               // rows of half a head to put back in order; 0: as stored
    int part = 0;                        // of the split model, that `tensor` is in
    float factor = 1.0f;                 // of the values; 0: zeros, whatever the tensor is
  };
  const GgufTensor* find_stored(std::string_view name) const;
  [[noreturn]] void refuse(const GgufTensor& tensor, std::string_view cause) const;
  void add(const std::string& name, const GgufTensor& tensor, std::vector<int64_t> shape, Source source);
  void map_tensor(const GgufTensor& tensor);
  void map_experts(const GgufTensor& tensor, TensorName::Part part, const std::string& blk, const std::string& prefix);
  void map_latent(const GgufTensor& tensor, const std::string& blk, const std::string& prefix);
  Json rope_scaling(int64_t head_dim, double theta) const;
  void add_expert_config(Json& config) const;
  void add_latent_config(Json& config) const;
  std::vector<GgufFile> parts_;
  const GgufFile& file_ = parts_.front();
  std::vector<fs::path> files_;  // of parts_
  const ModelKind& family_;
  std::string arch_;
  int part_ = 0;  // whose tensors are being mapped
  TensorTable table_;
  std::vector<Source> sources_;  // in the order of table_.list()
};

}  // namespace overproof
