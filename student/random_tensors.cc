#include "student/random_tensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"

namespace overproof {

RandomTensors::RandomTensors(const ModelConfig& c, uint64_t seed, std::string stream, Deviation deviation)
    : seed_(seed), stream_(std::move(stream)), deviation_(std::move(deviation)) {
  const int64_t hidden = c.hidden_size, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim, ff = c.intermediate_size;
  const auto add = [&](std::string name, std::vector<int64_t> shape) {
    infos_.push_back({std::move(name), DType::f32, std::move(shape)});
  };
  add("model.embed_tokens.weight", {c.vocab_size, hidden});
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string at = fmt::format("model.layers.{}.", l);
    add(at + "input_layernorm.weight", {hidden});
    add(at + "self_attn.q_proj.weight", {q, hidden});
    add(at + "self_attn.k_proj.weight", {kv, hidden});
    add(at + "self_attn.v_proj.weight", {kv, hidden});
    add(at + "self_attn.o_proj.weight", {hidden, q});
    add(at + "post_attention_layernorm.weight", {hidden});
    add(at + "mlp.gate_proj.weight", {ff, hidden});
    add(at + "mlp.up_proj.weight", {ff, hidden});
    add(at + "mlp.down_proj.weight", {hidden, ff});
  }
  add("model.norm.weight", {hidden});
  if (!c.tie_embeddings) add("lm_head.weight", {c.vocab_size, hidden});
}

void RandomTensors::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const TensorInfo* info = find(name);
  OVERPROOF_CHECK(info != nullptr);
  if (info->shape.size() == 1) return std::fill(out.begin(), out.end(), 1.0f);
  const int64_t columns = info->shape[1];
  const double deviation = deviation_(name, columns);
  for (int64_t r = 0; r < rows; ++r) {
    Rng rng(seed_, fmt::format("{}/{}", stream_, name), uint64_t(first_row + r));
    for (int64_t c = 0; c < columns; ++c) out[size_t(r * columns + c)] = float(deviation * rng.normal());
  }
}

}  // namespace overproof
