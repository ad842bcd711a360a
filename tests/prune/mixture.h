#pragma once
// A small mixture of experts for the tests of what removes or merges experts.

#include <fstream>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "tests/support.h"

namespace overproof {

inline constexpr int64_t kHidden = 8, kWidth = 4, kLayers = 2, kExperts = 5, kVocab = 11;

inline std::vector<float> random_values(int64_t n, const std::string& stream) {
  Rng rng(11, stream);
  std::vector<float> values(n);
  for (float& x : values) x = float(rng.normal());
  return values;
}

inline std::string expert_name(int64_t layer, int64_t expert, const std::string& part) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(expert) + "." + part + ".weight";
}

/// A small mixture of experts with random weights, and a tokenizer that is copied unchanged.
inline void write_student(const fs::path& folder, const Json& changes = Json::object()) {
  set_progress_mode(ProgressMode::off);
  fs::create_directories(folder);
  std::vector<TensorInfo> tensors = {{"model.embed_tokens.weight", DType::f32, {kVocab, kHidden}}};
  for (int64_t l = 0; l < kLayers; ++l) {
    const std::string mlp = "model.layers." + std::to_string(l) + ".mlp.";
    tensors.push_back({"model.layers." + std::to_string(l) + ".self_attn.q_proj.weight", DType::bf16, {kHidden, kHidden}});
    tensors.push_back({mlp + "gate.weight", DType::f32, {kExperts, kHidden}});
    tensors.push_back({mlp + "gate.e_score_correction_bias", DType::f32, {kExperts}});
    tensors.push_back({mlp + "shared_experts.gate_proj.weight", DType::bf16, {kWidth, kHidden}});
    for (int64_t e = 0; e < kExperts; ++e) {
      tensors.push_back({expert_name(l, e, "gate_proj"), DType::bf16, {kWidth, kHidden}});
      tensors.push_back({expert_name(l, e, "up_proj"), DType::bf16, {kWidth, kHidden}});
      tensors.push_back({expert_name(l, e, "down_proj"), DType::bf16, {kHidden, kWidth}});
    }
  }
  OutputFolder out(folder);
  SafetensorsWriter writer(out, "model.safetensors", tensors);
  for (const TensorInfo& tensor : tensors) writer.append_f32(random_values(tensor.elements(), tensor.name));
  writer.close();
  Json config = {{"model_type", "glm4_moe"},     {"architectures", {"Glm4MoeForCausalLM"}},
                 {"hidden_size", kHidden},       {"num_hidden_layers", kLayers},
                 {"n_routed_experts", kExperts}, {"num_experts_per_tok", 2},
                 {"first_k_dense_replace", 0},   {"vocab_size", kVocab},
                 {"num_attention_heads", 2},     {"num_key_value_heads", 2},
                 {"head_dim", kHidden / 2},      {"intermediate_size", kWidth},
                 {"moe_intermediate_size", kWidth}, {"n_shared_experts", 1},
                 {"partial_rotary_factor", 1.0}, {"max_position_embeddings", 64},
                 {"n_group", 1},                 {"topk_group", 1}};
  config.update(changes);
  std::ofstream(folder / "config.json") << config.dump();
  std::ofstream(folder / "tokenizer.json") << "{\"model\":{\"vocab\":{}}}";
}

}  // namespace overproof
