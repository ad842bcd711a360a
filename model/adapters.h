#pragma once
// Low-rank adapters of a decoder's Linears (Hu et al. 2022, "LoRA"): y = x W^T + scale (x A^T) B^T, A [rank, in], B [out, rank]. Only A and B
// are trained, so no gradient as large as W exists.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "model/decoder.h"

namespace overproof {

struct Adapter {
  at::Tensor a, b;  ///< undefined: none
  double scale = 0;
};

/// Of one layer. gate, up and down are those of a dense FFN. A mixture of experts has adapters in its attention only: PEFT takes the names of
/// its FFN projections for those of fused experts, and could not load others.
struct LayerAdapters {
  Adapter q, k, v, o, gate, up, down;
};

/// y + scale (x A^T) B^T; y itself without an adapter. Differentiable.
at::Tensor adapted(const at::Tensor& y, const at::Tensor& x, const Adapter& adapter);

struct LoraShape {
  int64_t rank = 0;  ///< of the adapters; 0: none
  double alpha = 0;  ///< scale = alpha / rank
  std::vector<std::string> targets;  ///< of kLoraTargets
};
inline const std::vector<std::string> kLoraTargets = {"q", "k", "v", "o", "gate", "up", "down"};

/// An adapter and the weight that it adapts.
struct AdapterPlace {
  std::string module;  ///< Hugging Face's name: "model.layers.0.self_attn.q_proj"
  Adapter adapter;
  at::Tensor weight;  ///< [out, in], the decoder's memory
};

/// Gives the decoder adapters that change nothing: A uniform in +-1 / sqrt(in) as PEFT has it, drawn from fixed keys, B zero. Throws
/// UsageError when the model has none of the targets, MismatchError when it rounds its activations.
void add_adapters(Decoder& decoder, const LoraShape& shape);

/// All adapters, by layer and in the order of kLoraTargets.
std::vector<AdapterPlace> adapter_places(const Decoder& decoder);

/// Adds scale B A to the weight of a place.
void merge_adapter(const AdapterPlace& place);

}  // namespace overproof
