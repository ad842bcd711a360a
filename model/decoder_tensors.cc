#include "model/decoder_tensors.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "model/host_values.h"

namespace overproof {

DecoderTensors::DecoderTensors(const Decoder& decoder) : weights_(stored_weights(decoder)) {
  for (const NamedTensor& w : weights_) table_.add({w.name, DType::f32, w.tensor.sizes().vec()});
}

void DecoderTensors::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const NamedTensor& w = weights_[table_.row_range({}, name, first_row, rows, out)];
  const at::Tensor part = w.tensor.narrow(0, first_row, rows).detach().to(at::kCPU, at::kFloat).contiguous();
  std::ranges::copy(host_values<float>(part), out.begin());
}

}  // namespace overproof
