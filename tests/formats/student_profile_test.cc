#include "formats/student_profile.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"

using namespace overproof;
using Catch::Contains;

namespace {

/// A llama, or a qwen3, whose RoPE is Llama 3's where that is asked for.
ModelConfig teacher(const char* model_type, bool llama3) {
  Json rope = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  if (llama3)
    rope = {{"rope_type", "llama3"},
            {"rope_theta", 500000.0},
            {"factor", 8.0},
            {"low_freq_factor", 1.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 8192}};
  return ModelConfig::from_json({{"model_type", model_type},
                                 {"vocab_size", 97},
                                 {"hidden_size", 48},
                                 {"intermediate_size", 96},
                                 {"num_hidden_layers", 2},
                                 {"num_attention_heads", 6},
                                 {"num_key_value_heads", 2},
                                 {"head_dim", 8},
                                 {"max_position_embeddings", 131072},
                                 {"rope_parameters", rope}},
                                "config.json");
}

}  // namespace

TEST_CASE("auto takes glm4_moe where it expresses the teacher, and qwen2_moe for Llama-3 RoPE") {
  CHECK(resolve_profile(teacher("llama", false), StudentProfile::automatic) == StudentProfile::glm4_moe);
  CHECK(resolve_profile(teacher("llama", true), StudentProfile::automatic) == StudentProfile::qwen2_moe);
  CHECK(resolve_profile(teacher("llama", false), StudentProfile::qwen2_moe) == StudentProfile::qwen2_moe);
  CHECK(resolve_profile(teacher("qwen3", false), StudentProfile::automatic) == StudentProfile::glm4_moe);
}

TEST_CASE("what a profile cannot express is refused with the cause") {
  CHECK_THROWS_WITH(resolve_profile(teacher("llama", true), StudentProfile::glm4_moe), Contains("Llama-3 RoPE") && Contains("profile = auto"));
  CHECK_THROWS_WITH(resolve_profile(teacher("qwen3", false), StudentProfile::qwen2_moe), Contains("norms of queries and keys"));
  CHECK_THROWS_WITH(resolve_profile(teacher("qwen3", true), StudentProfile::automatic), Contains("Llama-3 RoPE") && Contains("norms of queries and keys"));
  CHECK_THROWS_AS(resolve_profile(teacher("qwen3", true), StudentProfile::automatic), MismatchError);
  CHECK_THAT(why_not_upcycled(teacher("llama", true)), Contains("can be carved"));
  CHECK(why_not_upcycled(teacher("llama", false)).empty());
  CHECK_THROWS_AS(carved_shape(teacher("llama", true), StudentProfile::qwen2_moe, 8, 0, 2), UsageError);
}

TEST_CASE("a carved shape is read back from its config.json, RoPE included") {
  const StudentProfile profile = GENERATE(StudentProfile::glm4_moe, StudentProfile::qwen2_moe);
  const bool gated = profile == StudentProfile::qwen2_moe;
  const ModelConfig dense = teacher("llama", gated), shape = carved_shape(dense, profile, 6, 2, 3);
  CHECK(shape.why_not_trained().empty());
  const ModelConfig again = ModelConfig::from_json(shape.to_json(), "config.json");
  CHECK(again.to_json() == shape.to_json());
  CHECK(again.model_type == (gated ? "qwen2_moe" : "glm4_moe"));
  CHECK(again.rope.type == (gated ? "llama3" : "default"));
  CHECK(again.shared_gate == gated);
  CHECK(again.norm_topk_prob == gated);
  CHECK(again.shared_width() == 24);
  CHECK(again.moe_intermediate_size == 12);
  CHECK(again.ffn_activation() == Approx(5.0 / 8));
  const FoldedFactors factors = folded_factors(again);
  CHECK(factors.routed == (gated ? 3 : 1));
  CHECK(factors.shared == (gated ? 2 : 1));
}
