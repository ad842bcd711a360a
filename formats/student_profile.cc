#include "formats/student_profile.h"

#include <fmt/format.h>

#include "core/error.h"

namespace overproof {

std::string why_not_in_profile(const ModelConfig& dense, StudentProfile profile) {
  OVERPROOF_CHECK(profile != StudentProfile::automatic);
  if (profile == StudentProfile::glm4_moe && dense.rope.scaled())
    return "it has Llama-3 RoPE scaling, which llama.cpp does not compute for glm4_moe";
  if (profile == StudentProfile::qwen2_moe && dense.qk_norm)
    return "it has norms of queries and keys, which qwen2_moe does not have";
  return {};
}

std::string why_not_upcycled(const ModelConfig& dense) {
  if (std::string cause = dense.why_not_carved(); !cause.empty()) return cause;
  const std::string cause = why_not_in_profile(dense, StudentProfile::glm4_moe);
  return cause.empty() ? cause : cause + ": it can be carved (as qwen2_moe), but not be upcycled";
}

StudentProfile resolve_profile(const ModelConfig& dense, StudentProfile asked) {
  if (const std::string cause = dense.why_not_carved(); !cause.empty())
    throw MismatchError("the teacher cannot be carved: " + cause);
  if (asked == StudentProfile::automatic)
    return why_not_in_profile(dense, StudentProfile::glm4_moe).empty() ? StudentProfile::glm4_moe : StudentProfile::qwen2_moe;
  if (const std::string cause = why_not_in_profile(dense, asked); !cause.empty())
    throw MismatchError(fmt::format("the teacher cannot be carved with this profile: {}; use profile = auto", cause));
  return asked;
}

ModelConfig carved_shape(const ModelConfig& dense, StudentProfile profile, int64_t experts, int64_t shared, int64_t top_k) {
  OVERPROOF_CHECK(profile != StudentProfile::automatic && dense.intermediate_size % (experts + shared) == 0);
  const bool gated = profile == StudentProfile::qwen2_moe;
  if (gated && shared == 0) throw UsageError("option 'shared': qwen2_moe always has a shared expert; use 1 or more");
  ModelConfig c = dense;
  c.model_type = gated ? "qwen2_moe" : "glm4_moe";
  c.n_routed_experts = experts;
  c.moe_intermediate_size = dense.intermediate_size / (experts + shared);
  c.n_shared_experts = gated ? 1 : shared;
  c.shared_intermediate_size = gated ? shared * c.moe_intermediate_size : 0;
  c.shared_gate = gated;
  c.top_k = top_k;
  c.expert_scores = gated ? ExpertScores::softmax : ExpertScores::sigmoid;
  c.norm_topk_prob = gated;
  c.routed_scaling_factor = gated ? 1.0 : 2.0;  // 2 sigmoid(0) = 1
  return c;
}

FoldedFactors folded_factors(const ModelConfig& student) {
  if (student.model_type != "qwen2_moe") return {};
  return {.routed = double(student.top_k), .shared = 2.0};
}

}  // namespace overproof
