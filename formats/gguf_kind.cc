#include "formats/gguf_kind.h"

#include <algorithm>

#include "core/json_object.h"

namespace overproof {
namespace {

ModelKind qwen2_moe_as_granitemoe() {
  ModelKind kind = *find_model_kind("qwen2_moe");
  kind.arch = "granitemoe";
  kind.interleaved_rope = true;
  kind.normalised_gguf_weights = true;
  kind.square_gguf_attention = false;
  kind.head_in_gguf = false;
  return kind;
}

bool all_gates_are_zero(const TensorSource& tensors) {
  return std::ranges::all_of(tensors.tensors(), [&](const TensorInfo& t) {
    if (!t.name.ends_with(".mlp.shared_expert_gate.weight")) return true;
    const std::vector<float> gate = tensors.read_all_f32(t.name);
    return std::ranges::all_of(gate, [](float v) { return v == 0; });
  });
}

}  // namespace

const ModelKind* gguf_kind(const Json& config, const TensorSource& tensors) {
  const JsonObject fields(config, "config.json", "", JsonNull::absent);
  const ModelKind* kind = find_model_kind(fields.text("model_type", ""));
  if (!kind || kind->arch.empty()) return nullptr;
  if (!kind->is(ModelKind::qwen2_moe) || !fields.flag("norm_topk_prob", false) || !all_gates_are_zero(tensors)) return kind;
  return &ungated_gguf_kind();
}

const ModelKind& ungated_gguf_kind() {
  static const ModelKind kUngated = qwen2_moe_as_granitemoe();
  return kUngated;
}

bool writes_ungated(const ModelKind& gguf) { return gguf.is(ModelKind::qwen2_moe) && gguf.arch == "granitemoe"; }

}  // namespace overproof
