#pragma once
// Parses the name of a tensor of a Hugging Face checkpoint: "model.layers.3.mlp.experts.5.up_proj.weight".

#include <cstdint>
#include <string_view>

namespace overproof {

/// Refers to the text that was parsed, which must outlive it.
struct TensorName {
  /// The function of the module, in all known architectures: w1, w3 and w2 of mixtral are gate, up and down.
  enum class Part { other, q, k, v, o, gate, up, down, router, router_bias };

  std::string_view list;           ///< "model.layers" before the layer's number; "" outside of a numbered layer
  int64_t layer = -1;              ///< -1: outside of a numbered layer
  std::string_view rest;           ///< what follows "model.layers.3."; the whole name outside of a layer
  std::string_view unit;           ///< the name without module and suffix: "model.layers.3.mlp.experts.5"
  std::string_view block;          ///< the same of `rest`: "mlp.experts.5", "mlp", "self_attn"; "" for norms
  int64_t expert = -1;             ///< number of a routed expert; -1: none
  std::string_view expert_prefix;  ///< "model.layers.3.mlp.experts.5."; "" when expert is -1
  bool shared = false;             ///< of shared experts
  Part part = Part::other;         ///< of a .weight or .bias; other for scales and everything else
  bool bias = false;

  bool in_decoder() const { return list == "model.layers"; }
  /// A matrix or bias of a SwiGLU feed-forward network: dense, shared or of one expert.
  bool is_ffn() const { return part == Part::gate || part == Part::up || part == Part::down; }

  static TensorName parse(std::string_view name);
};

}  // namespace overproof
