#pragma once
// The decoder that teacher and student are made of: a rotary transformer with the features of formats/model_config.h, composed of the
// operators in model/ops/. Differentiable, on any device and in any number type.
// Text is written by a Generator (generator.h).

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "formats/model_config.h"
#include "formats/tensor_source.h"
#include "model/decoder_weights.h"
#include "model/ops/expert_mixture.h"
#include "model/ops/rotary.h"
#include "model/placement.h"
#include "model/rope.h"
#include "model/torch_setup.h"

namespace overproof {

/// The inputs of the Linears of an attention block, before any rounding.
struct AttentionInputs {
  at::Tensor qkv;         ///< [tokens, hidden]
  at::Tensor o;           ///< [tokens, heads x value_width]
  at::Tensor q_b, kv_b;   ///< of latent attention, [tokens, q_rank] (undefined without q_a) and [tokens, kv_rank]
};

/// One feed-forward block of a layer: kDenseFfn is the dense or the shared one, 0 and up are the routed experts.
inline constexpr int64_t kDenseFfn = -1;

/// One pass through a feed-forward block.
struct FfnPass {
  at::Tensor activation;  ///< the gate's activation times up, the input of down_proj before any rounding, [tokens, width]
  at::Tensor out;         ///< [tokens, hidden], without residual, with a shared expert's own gate; not shared with any other tensor
};

/// What a MoE layer saw in one forward pass, for balancing and reports.
struct RouterRecord {
  at::Tensor load;      ///< I64 [experts]: tokens sent to each routed expert
  at::Tensor selected;  ///< I32 [tokens, top_k], ascending ids; filled only when asked for
  at::Tensor scores;    ///< [tokens, experts] before the sigmoid, differentiable; filled only when asked for
};

/// The residual stream inside a layer in one forward pass, differentiable; [tokens, hidden].
struct LayerStates {
  at::Tensor attended;  ///< after the attention block
  at::Tensor out;       ///< after the FFN block
};

struct ForwardOptions {
  int64_t top_k = 0;                             ///< 0: the model's own; n_routed_experts: all (equivalence certificate)
  std::vector<RouterRecord>* routing = nullptr;  ///< one record a layer is appended
  bool record_selected = false, record_scores = false;
  std::vector<LayerStates>* layers = nullptr;  ///< one a layer is appended
  /// I32 [batch, length]: a token attends only to tokens of its segment before it, and positions begin at 0 in each segment, whose tokens
  /// are next to each other. Undefined: each sequence is one segment.
  at::Tensor segments;
  /// Called with the FFN input (after its norm) of each layer: [tokens, hidden].
  std::function<void(int64_t layer, const at::Tensor& ffn_input)> on_ffn_input;
};

class Decoder {
 public:
  /// Reads all weights, and from config.json how activations are rounded; a model that rounds can be run but not trained. Throws
  /// FormatError naming a missing tensor, a wrong shape or what config.json asks for that is not supported.
  explicit Decoder(const Checkpoint& checkpoint, const Placement& placement = {});
  Decoder(ModelConfig config, const TensorSource& tensors, const Placement& placement = {});

  /// With weights that are in memory; the undefined ones are not used until set_layer() brings them.
  Decoder(ModelConfig config, DecoderWeights weights);

  const ModelConfig& config() const { return config_; }
  const Placement& placement() const { return placement_; }

  /// tokens I64 [batch, length] on the CPU -> hidden states after the last norm, [batch x length, hidden]. Throws MismatchError for
  /// an id outside the vocabulary, and for a model that rounds when gradients are recorded.
  at::Tensor hidden(const at::Tensor& tokens, const ForwardOptions& options = {}) const;
  /// hidden [n, hidden] -> [n, vocab]. Large: use it in chunks.
  at::Tensor logits(const at::Tensor& hidden) const;

  // The steps of hidden(), for a caller that takes all tokens through one layer at a time. x is the residual stream, [batch x
  // length, hidden].
  /// tokens I64 [batch, length] -> x.
  at::Tensor embed(const at::Tensor& tokens) const;
  /// x after the attention block of `layer`, residual included. `seen` may be null; `segments` as in ForwardOptions.
  at::Tensor attention_block(int64_t layer, const at::Tensor& x, int64_t batch, AttentionInputs* seen = nullptr, const at::Tensor& segments = {}) const;
  /// The input of the FFN (dense, shared, experts and router) of `layer`: x after the norm, or x itself where there is none. x is the stream after the
  /// attention block, or before it in layers that are parallel (NormPlaces).
  at::Tensor ffn_input(int64_t layer, const at::Tensor& x) const;
  /// What is added to the residual stream for FfnPass::out of a dense FFN: `out` after the norm of results, scaled.
  at::Tensor ffn_output(int64_t layer, const at::Tensor& out) const;
  /// The experts of `layer` for each row of its ffn_input(); top_k 0 means the model's own.
  ops::Routing route(int64_t layer, const at::Tensor& ffn_input, int64_t top_k = 0) const;
  /// x after the FFN block of `layer`, residual included; differentiable as hidden() is. Not for parallel layers.
  at::Tensor ffn_residual(int64_t layer, const at::Tensor& x, const ForwardOptions& options = {}) const { return ffn_block(layer, x, x, options); }
  /// The last norm, and the scale of logits.
  at::Tensor last_norm(const at::Tensor& x) const;
  /// One block alone, with the rounding that the checkpoint asks for. Rows [n, hidden] of ffn_input(). No gradient.
  FfnPass ffn_pass(int64_t layer, int64_t ffn, const at::Tensor& rows) const;

  /// The output head, [vocab, hidden]; the embedding itself when tied.
  const at::Tensor& head() const { return weights_.head.defined() ? weights_.head : weights_.embedding; }
  const std::vector<LayerWeights>& layers() const { return weights_.layers; }
  const DecoderWeights& weights() const { return weights_; }

  /// Every weight under a name of this program, in a fixed order. Fused tensors have one name here ("layers.0.experts.gate_up");
  /// save_decoder() writes their parts under Hugging Face's. The tensors share the decoder's memory: set requires_grad on them,
  /// or write into them in place.
  std::vector<NamedTensor> parameters() const;

  /// Replaces the weights of a layer; undefined ones release its memory.
  void set_layer(int64_t layer, LayerWeights weights) { weights_.layers.at(size_t(layer)) = std::move(weights); }

  /// Replaces the adapters of all layers (adapters.h); empty: none. They are no parameters().
  void set_adapters(std::vector<std::shared_ptr<LayerAdapters>> adapters);

  /// Changes how many routed experts a token uses, in [1, n_routed_experts]; config() and a saved copy have the new number.
  void set_active_experts(int64_t top_k);

 private:
  /// Where each token is, and what it attends to; the second of each: in layers with a window.
  struct Sight {
    ops::RotaryAngles angles, window_angles;
    at::Tensor mask, window_mask;  ///< undefined: all tokens before it
  };
  void set_rope();
  Sight sight(int64_t length, const at::Tensor& segments) const;
  at::Tensor attention(int64_t layer, const at::Tensor& x, const Sight& sight, int64_t batch, int64_t length, AttentionInputs* seen) const;
  struct Projections {
    at::Tensor q, k, v;  ///< [tokens, heads, width]
  };
  Projections project(int64_t layer, const at::Tensor& h, AttentionInputs* seen) const;
  Projections project_latent(int64_t layer, const at::Tensor& h, AttentionInputs* seen) const;
  at::Tensor ffn_norm(int64_t layer, const at::Tensor& x, at::ScalarType type) const;
  at::Tensor dense_ffn(int64_t layer, const at::Tensor& h, const at::Tensor& x) const;
  at::Tensor ffn_block(int64_t layer, const at::Tensor& x, const at::Tensor& before, const ForwardOptions& options) const;
  at::Tensor rounded_mixture(int64_t layer, const at::Tensor& x, const at::Tensor& base, const ops::Routing& routing) const;

  ModelConfig config_;
  Placement placement_;
  DecoderWeights weights_;
  Rope rope_, window_rope_;
};

/// Writes config.json, generation_config.json and safetensors under Hugging Face's names: experts one by one, router
/// and its bias always f32, lm_head.weight only when it is not tied to the embedding. `dtype`: F32, F16 or BF16, see
/// formats/weight_dtype.h. Throws DivergenceError for a weight beyond the range of F16, MismatchError for a shape that cannot be trained
/// (ModelConfig::why_not_trained): of those the names and the form in memory are not the checkpoint's.
void save_decoder(const Decoder& decoder, OutputFolder& folder, DType dtype);

/// Rounds the weights in place to what save_decoder() writes, so that what is measured afterwards is true of the file.
void round_weights(Decoder& decoder, DType dtype);

/// The ATen type of F32, F16 or BF16.
at::ScalarType scalar_type_of(DType dtype);

/// The weights as save_decoder() writes them, under Hugging Face's names: the decoder's own tensors, contiguous slices of fused
/// ones.
std::vector<NamedTensor> stored_weights(const Decoder& decoder);

}  // namespace overproof
