#pragma once
// Inside model/: the weights of a Generator, in the form in which a checkpoint stores them.

#include <memory>
#include <vector>

#include "core/file.h"
#include "formats/model_config.h"
#include "formats/tensor_source.h"
#include "model/activation_rounding.h"
#include "model/ops/row_matrix.h"
#include "model/placement.h"

namespace overproof {

struct GeneratorFfn {
  ops::RowMatrix gate, up, down;
  at::Tensor gate_bias, up_bias, down_bias;  ///< of a dense layer, or undefined
};

/// As LayerWeights (decoder_weights.h). Vectors and the router have the placement's type; undefined where the model has none.
struct GeneratorLayer {
  at::Tensor input_norm, input_norm_bias, post_norm, post_norm_bias, attention_out_norm, ffn_out_norm, q_norm, k_norm;
  ops::RowMatrix q, k, v, o;
  at::Tensor q_bias, k_bias, v_bias, o_bias;
  ops::RowMatrix q_a, kv_a, kv_b;
  at::Tensor q_a_norm, kv_a_norm;
  GeneratorFfn dense;  ///< or shared
  std::vector<GeneratorFfn> experts;
  at::Tensor router, router_bias, shared_gate;
  std::shared_ptr<const LayerRounding> rounding;
};

struct GeneratorWeights {
  ops::RowMatrix embedding, head;  ///< the same one when tied
  at::Tensor final_norm, final_norm_bias;
  std::vector<GeneratorLayer> layers;
};

/// Reads all weights. For f32 on the CPU, matrices keep integer codes (formats/integer_codes.h), bf16 and f16; what has no such
/// form is f32. Elsewhere all are of the placement's type. Throws as load_weights() does.
GeneratorWeights load_generator_weights(const ModelConfig& config, const TensorSource& tensors, const Placement& placement,
                                        const fs::path& where);

}  // namespace overproof
