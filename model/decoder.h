#pragma once
// The decoder that teacher and student are made of (Llama-type pre-norm transformer, optionally with a DeepSeek-V3-type
// mixture of experts). f32 on the CPU through libtorch; differentiable.

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "formats/tensor_source.h"
#include "formats/model_config.h"
#include "model/runtime.h"

namespace overproof {

struct LayerRounding;  // activation_rounding.h

/// Weights of one layer. A dense layer fills gate_up [2 x ff, hidden] and down [hidden, ff]; a MoE layer fills the rest too:
/// gate_up and down then are the shared expert's (undefined when there is none).
struct LayerWeights {
  at::Tensor input_norm, post_norm;   // [hidden]
  at::Tensor q, k, v, o;              // [heads x head_dim, hidden], ..., o [hidden, heads x head_dim]
  at::Tensor q_bias, k_bias, v_bias;  // [..] or undefined
  at::Tensor q_norm, k_norm;          // [head_dim] or undefined
  at::Tensor gate_up, down;
  at::Tensor expert_gate_up;                      // [experts, 2 x width, hidden]; rows: gate then up
  at::Tensor expert_down;                         // [experts, hidden, width]
  at::Tensor router;                              // [experts, hidden]
  at::Tensor router_bias;                         // [experts], e_score_correction_bias: selection only, never a gradient
  std::shared_ptr<const LayerRounding> rounding;  // null: the Linears' inputs stay as they are (activation_rounding.h)
};

/// What the Linears of an attention block are given, before any rounding.
struct AttentionInputs {
  at::Tensor qkv;  ///< [tokens, hidden]
  at::Tensor o;    ///< [tokens, heads x head_dim]
};

/// A weight with its canonical name. Fused tensors have one name here ("layers.0.experts.gate_up") and are written
/// apart under Hugging Face's names by save_decoder.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

/// What a MoE layer saw in one forward pass, for balancing and reports.
struct RouterRecord {
  at::Tensor load;      ///< I64 [experts]: tokens sent to each routed expert
  at::Tensor selected;  ///< I32 [tokens, top_k], ascending ids; filled only when asked for
};

struct ForwardOptions {
  int64_t top_k = 0;                             ///< 0: the model's own; n_routed_experts: all (equivalence certificate)
  std::vector<RouterRecord>* routing = nullptr;  ///< one record a layer is appended
  bool record_selected = false;
  /// Called with the FFN input (after its norm) of each layer: [tokens, hidden].
  std::function<void(int64_t layer, const at::Tensor& ffn_input)> on_ffn_input;
};

/// Keys and values of the tokens seen so far, for generation.
struct KvCache {
  std::vector<at::Tensor> keys, values;  // per layer [1, kv_heads, length, head_dim]
  int64_t length = 0;
};

class Decoder {
 public:
  /// Reads all weights as f32, and how config.json wants activations rounded; a model that rounds can be run but not trained.
  /// Throws FormatError naming a missing tensor or a wrong shape.
  explicit Decoder(const Checkpoint& checkpoint);
  Decoder(ModelConfig config, const TensorSource& tensors);

  const ModelConfig& config() const { return config_; }
  ModelConfig& config() { return config_; }
  /// tokens I64 [batch, length] -> hidden states after the last norm, [batch x length, hidden].
  at::Tensor hidden(const at::Tensor& tokens, const ForwardOptions& options = {}) const;
  /// One sequence, continuing `cache`: tokens I64 [1, new] -> [new, hidden].
  at::Tensor hidden_cached(const at::Tensor& tokens, KvCache& cache) const;
  /// hidden [n, hidden] -> [n, vocab]. Large: use it in chunks.
  at::Tensor logits(const at::Tensor& hidden) const;
  // The pieces of hidden(), for those who look at one layer at a time:
  /// tokens I64 [batch, length] -> residual stream [batch x length, hidden].
  at::Tensor embed(const at::Tensor& tokens) const;
  /// x after the attention block of `layer`, residual included; x [batch x length, hidden]. `seen` may be null.
  at::Tensor attention_block(int64_t layer, const at::Tensor& x, int64_t batch, AttentionInputs* seen = nullptr) const;
  /// What the FFN (dense, shared, experts and router) of `layer` is given: x after the norm.
  at::Tensor ffn_input(int64_t layer, const at::Tensor& x) const;

  /// The output head, [vocab, hidden]; the embedding itself when tied.
  const at::Tensor& head() const { return head_.defined() ? head_ : embedding_; }

  /// Every weight, in a fixed order. The tensors are the decoder's own: set requires_grad or write into them in place.
  std::vector<NamedTensor> parameters() const;
  std::vector<LayerWeights>& layers() { return layers_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }

 private:
  ModelConfig config_;
  at::Tensor embedding_, final_norm_, head_;
  at::Tensor inverse_frequencies_;
  std::vector<LayerWeights> layers_;
  friend struct DecoderAccess;
};

enum class SaveDType { f32, bf16 };
/// Of an option that takes "f32" or "bf16".
SaveDType save_dtype(std::string_view name);
/// Writes config.json, generation_config.json and safetensors under Hugging Face's names: experts one by one, router
/// and its bias always f32, lm_head.weight written also when tied if the config says so.
void save_decoder(const Decoder& decoder, OutputFolder& folder, SaveDType dtype);

/// The weights as save_decoder writes them, under Hugging Face's names: the decoder's own tensors, contiguous slices of fused
/// ones.
std::vector<NamedTensor> stored_weights(const Decoder& decoder);

/// Copies what a tokenizer needs (tokenizer.json, tokenizer_config.json, *.model) from one checkpoint to another, or
/// writes tokenizer.json from a GGUF's metadata, so that every exported student can be loaded alone.
void copy_tokenizer(const fs::path& from_checkpoint, OutputFolder& folder);

}  // namespace overproof
