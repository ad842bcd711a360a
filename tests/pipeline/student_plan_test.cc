// `plan` on the shapes of published models, whose parameters were counted from their files.

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "pipeline/student_plan.h"

namespace overproof {
namespace {

/// HuggingFaceTB/SmolLM2-135M-Instruct.
ModelConfig smollm2() {
  ModelConfig c;
  c.model_type = "llama";
  c.vocab_size = 49152;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.layers = 30;
  c.heads = 9;
  c.kv_heads = 3;
  c.head_dim = 64;
  c.max_position = 8192;
  c.tie_embeddings = true;
  return c;
}

/// TinyLlama/TinyLlama-1.1B-Chat-v1.0.
ModelConfig tinyllama() {
  ModelConfig c = smollm2();
  c.vocab_size = 32000;
  c.hidden_size = 2048;
  c.intermediate_size = 5632;
  c.layers = 22;
  c.heads = 32;
  c.kv_heads = 4;
  c.tie_embeddings = false;
  return c;
}

}  // namespace

TEST_CASE("costs are those of the counted weights") {
  const StudentCost small = cost_of(smollm2(), 2, 20e9), large = cost_of(tinyllama(), 2, 20e9);
  CHECK(small.parameters == 134515008);
  CHECK(small.memory_bytes == 2.0 * 134515008);
  CHECK(small.flops == 2.0 * 134515008);  // the embedding is the head: it is multiplied
  CHECK(small.decode_tokens == Approx(20e9 / small.read_bytes));
  CHECK(large.parameters == 1100048384);
  CHECK(large.flops == 2.0 * (1100048384 - 32000 * 2048));
  CHECK(large.read_bytes == 2.0 * (1100048384 - 32000 * 2048 + 2048));  // one row of the embedding
  CHECK(cost_of(tinyllama(), 1, 20e9).decode_tokens == Approx(2 * large.decode_tokens));
}

TEST_CASE("what reaches the target does, and carving alone is told where it cannot") {
  const ModelConfig dense = smollm2();
  const double active = double(dense.active_parameters());
  for (const double target : {0.055, 0.3, 0.7}) {
    INFO("target " << target);
    bool upcycled = false, carved = false;
    for (const PlannedStudent& s : plan_students(dense, target, 2 * active, 50)) {
      INFO(s.commands.back());
      CHECK(dense.intermediate_size % s.shape.moe_intermediate_size == 0);
      CHECK(s.shape.top_k <= s.shape.n_routed_experts);
      if (s.kind == PlannedStudent::Kind::carve) {
        carved = carved || s.active_fraction() <= target;
        CHECK((s.shape.n_routed_experts + s.shape.n_shared_experts) * s.shape.moe_intermediate_size == dense.intermediate_size);
        continue;
      }
      upcycled = true;
      CHECK(s.active_fraction() <= target);
      CHECK(double(s.shape.active_parameters()) <= 2 * active);
      CHECK(s.shape.n_routed_experts == s.copies * s.split);
      // One copy less would miss the target, as far as copies are counted one by one.
      if (s.copies > 1 && s.copies < 32) {
        ModelConfig less = s.shape;
        less.n_routed_experts -= s.split;
        CHECK(double(less.active_parameters()) / double(less.parameters()) > target);
      }
    }
    CHECK(upcycled);
    CHECK(carved == (target > 0.55));  // embedding, head and attention are 51 % of what a carved SmolLM2 has
  }
  // 79.6 of 134.5 million are FFN: at a quarter of the FFN active, 5.5 % of the whole takes some 17 copies.
  for (const PlannedStudent& s : plan_students(dense, 0.055, 2 * active, 50))
    if (s.split == 4 && s.shape.top_k == 1) {
      CHECK(s.copies >= 16);
      CHECK(s.copies <= 26);
    }
}

TEST_CASE("a teacher with Llama-3 RoPE is planned as qwen2_moe, by carving alone") {
  const ModelConfig llama3 = ModelConfig::from_json({{"model_type", "llama"},
                                                     {"vocab_size", 49152},
                                                     {"hidden_size", 576},
                                                     {"intermediate_size", 1536},
                                                     {"num_hidden_layers", 30},
                                                     {"num_attention_heads", 9},
                                                     {"num_key_value_heads", 3},
                                                     {"max_position_embeddings", 131072},
                                                     {"tie_word_embeddings", true},
                                                     {"rope_parameters",
                                                      {{"rope_type", "llama3"},
                                                       {"rope_theta", 500000.0},
                                                       {"factor", 8.0},
                                                       {"low_freq_factor", 1.0},
                                                       {"high_freq_factor", 4.0},
                                                       {"original_max_position_embeddings", 8192}}}},
                                                    "config.json");
  const std::vector<PlannedStudent> plans = plan_students(llama3, 0.7, 2 * double(llama3.active_parameters()), 50);
  REQUIRE(!plans.empty());
  for (const PlannedStudent& s : plans) {
    CHECK(s.kind == PlannedStudent::Kind::carve);
    CHECK(s.shape.model_type == "qwen2_moe");
    CHECK(s.shape.rope.type == "llama3");
  }
}

TEST_CASE("a bound on active parameters takes layers away first") {
  const ModelConfig dense = smollm2();
  bool shrunk = false;
  for (const PlannedStudent& s : plan_students(dense, 0.055, 100e6, 50)) {
    if (s.kind == PlannedStudent::Kind::carve) continue;
    CHECK(double(s.shape.active_parameters()) <= 100e6);
    CHECK((s.kind == PlannedStudent::Kind::shrink_upcycle) == (s.parent_layers < dense.layers));
    CHECK(s.shape.layers == s.parent_layers);
    if (s.kind == PlannedStudent::Kind::shrink_upcycle) {
      shrunk = true;
      REQUIRE(s.commands.size() == 2);
      CHECK(s.commands[0] == "shrink --layers " + std::to_string(s.parent_layers));
    }
  }
  CHECK(shrunk);
}

TEST_CASE("the tokens that a step needs follow from the rule that is named") {
  const ModelConfig dense = smollm2();
  for (const PlannedStudent& s : plan_students(dense, 0.055, 1e9, 50)) {
    const std::vector<TokenNeed> needs = token_needs(s, dense);
    REQUIRE_FALSE(needs.empty());
    if (s.kind == PlannedStudent::Kind::upcycle)
      CHECK(needs.back().tokens == 20.0 * double(s.copies - 1) * 3 * 30 * 576 * 1536);
    if (s.kind == PlannedStudent::Kind::carve)
      CHECK(needs.back().tokens == Approx(double(s.shape.moe_intermediate_size * s.shape.n_routed_experts) / double(s.shape.top_k)));
  }
}

TEST_CASE("numbers with units are read, anything else is refused") {
  CHECK(parse_count("50M", "tokens") == 50e6);
  CHECK(parse_count("1.5B", "tokens") == 1.5e9);
  CHECK(parse_count("20k", "tokens") == 20e3);
  CHECK(parse_count("20000", "tokens") == 20000);
  for (const char* text : {"", "M", "-5M", "0", "5X", "5 M", "1e400", "nan", "inf", "5MM"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_count(text, "tokens"), UsageError);
  }
  CHECK(measure_bandwidth() > 1e8);
}

}  // namespace overproof
