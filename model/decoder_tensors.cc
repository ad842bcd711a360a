#include "model/decoder_tensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "model/adapters.h"
#include "model/host_values.h"

namespace overproof {

DecoderTensors::DecoderTensors(const Decoder& decoder) : weights_(stored_weights(decoder)) {
  std::map<std::string, AdapterPlace> adapted;
  for (AdapterPlace& place : adapter_places(decoder)) adapted[place.module + ".weight"] = std::move(place);
  for (NamedTensor& w : weights_)
    if (const auto found = adapted.find(w.name); found != adapted.end()) {
      w.tensor = w.tensor.clone();
      merge_adapter({w.name, found->second.adapter, w.tensor});
    }
  for (const NamedTensor& w : weights_) table_.add({w.name, DType::f32, w.tensor.sizes().vec()});
}

void DecoderTensors::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const NamedTensor& w = weights_[table_.row_range({}, name, first_row, rows, out)];
  const at::Tensor part = w.tensor.narrow(0, first_row, rows).detach().to(at::kCPU, at::kFloat).contiguous();
  std::ranges::copy(host_values<float>(part), out.begin());
}

}  // namespace overproof
