#include "quantize/plan.h"

#include <catch2/catch.hpp>
#include <regex>

#include "core/error.h"
#include "core/json.h"
#include "quantize/quantize_stage.h"

using namespace overproof;

namespace {

/// Names and shapes only.
class Listed final : public TensorSource {
 public:
  Listed() {
    const auto add = [&](const std::string& name, int64_t rows, int64_t columns) {
      list_.push_back({name + ".weight", DType::bf16, {rows, columns}});
    };
    add("model.embed_tokens", 100, 32);
    for (int l = 0; l < 3; ++l) {
      const std::string layer = "model.layers." + std::to_string(l) + ".";
      add(layer + "self_attn.q_proj", 32, 32);
      add(layer + "self_attn.o_proj", 32, 32);
      add(layer + "mlp.gate", 4, 32);
      for (const char* e : {"experts.0.", "experts.1.", "experts.10."})
        for (const char* p : {"gate_proj", "up_proj", "down_proj"}) add(layer + "mlp." + e + p, 16, 32);
    }
    add("lm_head", 100, 32);
  }
  const std::vector<TensorInfo>& tensors() const override { return list_; }
  void read_f32(std::string_view, int64_t, int64_t, std::span<float>) const override {
    throw std::logic_error("a plan reads no weight");
  }

 private:
  std::vector<TensorInfo> list_;
};

Plan plan_of(const QuantizeConfig& config) {
  Checkpoint model;
  model.path = "model";
  *model.config = {{"model_type", "glm4_moe"}, {"num_hidden_layers", 3}, {"n_routed_experts", 11}};
  model.tensors = std::make_unique<Listed>();
  return make_plan(config, model);
}

std::vector<std::string> quantised(const Plan& plan) {
  std::vector<std::string> names;
  for (const PlanItem& item : plan.items)
    if (item.scheme) names.push_back(item.source.name);
  return names;
}

}  // namespace

TEST_CASE("overrides decide before include and exclude, the first match for good") {
  CHECK(quantised(plan_of({})).size() == 3 * 11);
  CHECK(quantised(plan_of({.overrides = "*.layers.1.*=none"})).size() == 2 * 11);
  CHECK(quantised(plan_of({.overrides = "*.layers.1.self_attn.q_proj.weight=int8, *.layers.1.*=none"})).size() == 2 * 11 + 1);
  CHECK(quantised(plan_of({.exclude = "*", .overrides = "lm_head.weight=int8"})) == std::vector<std::string>{"lm_head.weight"});
  const Plan head = plan_of({.overrides = "lm_head.weight=int8"});
  CHECK(std::ranges::count(head.ignored, "lm_head") == 0);
  // Routers and embeddings stay out of it even for a pattern that matches all.
  CHECK(quantised(plan_of({.overrides = "*=int8"})).size() == 3 * 11 + 1);
}

TEST_CASE("overrides that cannot be meant are refused") {
  CHECK_THROWS_WITH(plan_of({.overrides = "*.q_proj.weight"}), Catch::Contains("not PATTERN=SCHEME"));
  CHECK_THROWS_WITH(plan_of({.overrides = "*.q_proj.weight=int7"}), Catch::Contains("int7"));
  CHECK_THROWS_WITH(plan_of({.overrides = "*.k_proj.weight=none"}), Catch::Contains("'*.k_proj.weight'"));
  CHECK_THROWS_WITH(plan_of({.overrides = "*=none, *.q_proj.weight=int8"}),
                    Catch::Contains("'*.q_proj.weight' decides about no"));
  CHECK_THROWS_WITH(plan_of({.overrides = "*.mlp.gate.weight=int8"}), Catch::Contains("decides about no Linear weight"));
  CHECK_THROWS_WITH(plan_of({.overrides = "*=none"}), Catch::Contains("no Linear weight matches"));
}

TEST_CASE("the projections of one expert have one scheme") {
  CHECK_THROWS_WITH(plan_of({.exclude = "*.down_proj.weight"}),
                    Catch::Contains("experts.0.gate_proj.weight would be int8") &&
                        Catch::Contains("widen the pattern to model.layers.0.mlp.experts.0.*"));
  CHECK_THROWS_AS(plan_of({.overrides = "*.experts.10.up_proj.weight=none"}), UsageError);
  CHECK(quantised(plan_of({.overrides = "*.experts.10.*=none"})).size() == 3 * 8);
}

TEST_CASE("module patterns match the modules that they stand for, and no others") {
  const Listed source;
  std::vector<std::string> all;
  for (const TensorInfo& t : source.tensors()) all.push_back(t.name.substr(0, t.name.size() - 7));
  const auto check = [&](const std::string& chosen_by) {
    std::vector<std::string> modules, others;
    for (const std::string& m : all) (matches_pattern(m, chosen_by) ? modules : others).push_back(m);
    const std::vector<std::string> patterns = module_patterns(modules, others);
    for (const std::string& m : all) {
      bool matched = false;  // as compressed-tensors does: re.match from the beginning, or the very name
      for (const std::string& p : patterns)
        matched |=
            p.starts_with("re:") ? std::regex_search(m, std::regex(p.substr(3)), std::regex_constants::match_continuous) : p == m;
      CAPTURE(chosen_by, m);
      CHECK(matched == matches_pattern(m, chosen_by));
    }
    return patterns;
  };
  CHECK(check("*.q_proj") == std::vector<std::string>{R"(re:^model\.layers\.\d+\.self_attn\.q_proj$)"});
  CHECK(check("*.layers.1.mlp.experts.*") == std::vector<std::string>{R"(re:^model\.layers\.1\.mlp\.experts\.\d+\.down_proj$)",
                                                                      R"(re:^model\.layers\.1\.mlp\.experts\.\d+\.gate_proj$)",
                                                                      R"(re:^model\.layers\.1\.mlp\.experts\.\d+\.up_proj$)"});
  CHECK(check("*.layers.2.mlp.experts.1.*").size() == 3);
  CHECK(check("*").size() == 8);
  CHECK(check("lm_head") == std::vector<std::string>{"re:^lm_head$"});
  CHECK(check("nothing").empty());
}
