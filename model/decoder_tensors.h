#pragma once
// The weights of a decoder in memory, under the names of a checkpoint.

#include <span>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"
#include "formats/tensor_source.h"
#include "model/decoder.h"

namespace overproof {

/// Views, not copies: what is read is what the decoder, which must outlive this, holds then. Of a weight with an adapter it is a copy, the two
/// merged as they are when this is made.
class DecoderTensors final : public TensorSource {
 public:
  explicit DecoderTensors(const Decoder& decoder);
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override;

 private:
  TensorTable table_;
  std::vector<NamedTensor> weights_;  // in the order of the table
};

}  // namespace overproof
