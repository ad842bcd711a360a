#include "formats/gguf_names.h"

#include <algorithm>

namespace overproof {
namespace {

constexpr GgufExpertName kExperts[] = {
    {"ffn_gate_exps.weight", TensorName::Part::gate},
    {"ffn_up_exps.weight", TensorName::Part::up},
    {"ffn_down_exps.weight", TensorName::Part::down},
};

}  // namespace

const ModelKind* kind_of_gguf(std::string_view arch, bool experts) {
  const auto kinds = model_kinds();
  const auto it = std::ranges::find_if(
      kinds, [&](const ModelKind& k) { return !k.arch.empty() && k.arch == arch && (k.has_experts() == experts || arch != "llama"); });
  return it == kinds.end() ? nullptr : &*it;
}

std::string list_model_kinds(bool gguf) {
  std::string list;
  for (const ModelKind& kind : model_kinds()) {
    if (kind.arch.empty()) continue;
    const std::string_view name = gguf ? kind.arch : kind.model_type;
    if (gguf && kind.is(ModelKind::mistral | ModelKind::mixtral)) continue;  // both are llama there
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  return list;
}

std::span<const GgufExpertName> gguf_expert_names() { return kExperts; }

std::string_view hf_layer_name(const ModelKind& kind, std::string_view gguf) {
  if (gguf.empty()) return {};
  for (const TensorEntry& entry : layer_tensors())
    if (kind.is(entry.kinds) && entry.gguf == gguf) return entry.hf;
  return {};
}

std::string_view hf_fused_gate_up(const ModelKind& kind) {
  return kind.experts == ModelKind::Experts::stay_fused ? "block_sparse_moe.input_linear.weight" : "mlp.experts.gate_up_proj";
}

std::string_view hf_fused_down(const ModelKind& kind) {
  return kind.experts == ModelKind::Experts::stay_fused ? "block_sparse_moe.output_linear.weight" : "mlp.experts.down_proj";
}

int64_t interleaved_row(int64_t row, int64_t half_head) {
  if (half_head == 0) return row;
  const int64_t in_head = row % (2 * half_head);
  return row - in_head + 2 * (in_head % half_head) + in_head / half_head;
}

int64_t row_of_interleaved(int64_t row, int64_t half_head) {
  if (half_head == 0) return row;
  const int64_t in_head = row % (2 * half_head);
  return row - in_head + in_head % 2 * half_head + in_head / 2;
}

}  // namespace overproof
