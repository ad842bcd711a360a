#pragma once
// The weights of a decoder, and under which names and shapes a checkpoint stores them.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "formats/model_config.h"
#include "formats/tensor_source.h"
#include "model/placement.h"

namespace overproof {

struct LayerRounding;  // activation_rounding.h
struct LayerAdapters;  // adapters.h

/// Weights of one layer, in the form of formats/canonical_tensors.h; those that the architecture does not have are undefined. A dense layer fills gate_up [2 x ff, hidden] and down [hidden, ff]; a MoE layer fills the rest too:
/// gate_up and down then are the shared expert's (undefined when there is none). All have the placement's type, except router
/// and router_bias, which are never rounded to 16 bits: that would change which experts are chosen.
struct LayerWeights {
  at::Tensor input_norm, post_norm;   // [hidden]
  at::Tensor q, k, v, o;              // [heads x head_dim, hidden], ..., o [hidden, heads x head_dim]
  at::Tensor q_bias, k_bias, v_bias;  // [..] or undefined
  at::Tensor q_norm, k_norm;          // [head_dim], [heads x head_dim] or [heads, head_dim], by HeadNorm
  at::Tensor o_bias;                            // [hidden]
  at::Tensor input_norm_bias, post_norm_bias;   // [hidden]
  at::Tensor attention_out_norm, ffn_out_norm;  // [hidden]
  // Latent attention: q is q_b_proj where there is a q_a; no k and v.
  at::Tensor q_a, q_a_norm;          // [q_rank, hidden], [q_rank]
  at::Tensor kv_a, kv_a_norm, kv_b;  // [kv_rank + rope_dim, hidden], [kv_rank], [heads x (nope_dim + value_dim), kv_rank]
  at::Tensor gate_up, down;
  at::Tensor gate_up_bias, down_bias;             // [2 x ff], [hidden] of a dense layer, or undefined
  at::Tensor expert_gate_up;                      // [experts, 2 x width, hidden]; rows: gate then up
  at::Tensor expert_down;                         // [experts, hidden, width]
  at::Tensor router;                              // [experts, hidden]
  at::Tensor router_bias;                         // [experts], e_score_correction_bias: selection only, never a gradient
  at::Tensor shared_gate;                         // [1, hidden]: its sigmoid scales the shared expert
  std::shared_ptr<const LayerRounding> rounding;  // null: the inputs of the Linears are not rounded
  std::shared_ptr<LayerAdapters> adapters;        // null: none
};

struct DecoderWeights {
  at::Tensor embedding;   // [vocab, hidden]
  at::Tensor final_norm;  // [hidden]
  at::Tensor final_norm_bias;
  at::Tensor head;        // [vocab, hidden]; undefined when tied to the embedding
  std::vector<LayerWeights> layers;
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

/// One tensor of a checkpoint and its place among the weights: a weight, or a contiguous slice of a fused one.
struct StoredTensor {
  std::string name;  ///< Hugging Face's
  at::Tensor target;
  bool keep_f32;  ///< router and its bias
};

/// All tensors of a checkpoint, in the order in which they are written. The targets share the weights' memory.
std::vector<StoredTensor> stored_tensors(const DecoderWeights& weights);

/// Those of one layer, of all of which `weights` are.
std::vector<StoredTensor> stored_layer(const LayerWeights& weights, int64_t layer);

/// Memory for all weights. On the device meta it takes none, and stored_tensors() of it lists what a checkpoint of this shape has.
DecoderWeights empty_weights(const ModelConfig& config, const Placement& placement);

/// Reads the weights of one layer, f32 on the CPU. The tensors were checked (formats/model_check.h) and are in canonical form
/// (formats/canonical_tensors.h).
LayerWeights load_layer(const ModelConfig& config, int64_t layer, const TensorSource& tensors, const fs::path& where);

/// Reads all weights. Throws FormatError (file `where`) naming a missing tensor or a wrong shape, before it allocates anything of
/// a size that the file gives.
DecoderWeights load_weights(const ModelConfig& config, const TensorSource& tensors, const Placement& placement,
                            const fs::path& where);

}  // namespace overproof
