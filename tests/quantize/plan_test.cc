#include "quantize/engine/plan.h"

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
  explicit Listed(DType dtype = DType::bf16) {
    const auto add = [&](const std::string& name, int64_t rows, int64_t columns) {
      list_.push_back({name + ".weight", dtype, {rows, columns}});
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
    list_.push_back({"model.norm.weight", dtype, {32}});
    add("lm_head", 100, 32);
  }
  const std::vector<TensorInfo>& tensors() const override { return list_; }
  void read_f32(std::string_view, int64_t, int64_t, std::span<float>) const override {
    throw std::logic_error("a plan reads no weight");
  }

 private:
  std::vector<TensorInfo> list_;
};

Plan plan_of(const PlanOptions& options, const Json& more = Json::object(), DType dtype = DType::bf16) {
  Checkpoint model;
  model.path = "model";
  *model.config = {{"model_type", "glm4_moe"}, {"num_hidden_layers", 3}, {"n_routed_experts", 11}};
  model.config->update(more);
  model.tensors = std::make_unique<Listed>(dtype);
  return make_plan(options, model);
}

std::vector<std::string> quantized(const Plan& plan) {
  std::vector<std::string> names;
  for (const PlanItem& item : plan.items)
    if (item.scheme) names.push_back(item.source.name);
  return names;
}

}  // namespace

TEST_CASE("overrides come before include and exclude, and their first match decides") {
  CHECK(quantized(plan_of({})).size() == 3 * 11 + 1);  // and the head
  CHECK(quantized(plan_of({.overrides = {{"*.layers.1.*", "none"}}})).size() == 2 * 11 + 1);
  CHECK(quantized(plan_of({.overrides = {{"*.layers.1.self_attn.q_proj.weight", "int8"}, {"*.layers.1.*", "none"}}})).size() ==
        2 * 11 + 2);
  CHECK(quantized(plan_of({.exclude = {"*"}, .overrides = {{"lm_head.weight", "int8"}}})) ==
        std::vector<std::string>{"lm_head.weight"});
  const Plan head = plan_of({.exclude = {"lm_head.*"}, .overrides = {{"lm_head.weight", "int8"}}});
  CHECK(std::ranges::count(head.ignored, "lm_head") == 0);
  CHECK(std::ranges::count(plan_of({.exclude = {"lm_head.*"}}).ignored, "lm_head") == 1);
  // Routers and embeddings are not quantized even when the pattern matches everything.
  CHECK(quantized(plan_of({.overrides = {{"*", "int8"}}})).size() == 3 * 11 + 1);
}

TEST_CASE("head and embedding are quantized where loaders take them") {
  const auto has = [](const Plan& plan, const std::string& name) { return std::ranges::count(quantized(plan), name) == 1; };
  for (const std::string scheme : {"int8", "int8-g128"}) {
    const Plan plan = plan_of({.scheme = scheme});
    CHECK(has(plan, "lm_head.weight"));
    CHECK_FALSE(has(plan, "model.embed_tokens.weight"));
  }
  // vLLM looks for the head by name only.
  CHECK(quantization_config(plan_of({}))["config_groups"]["group_0"]["targets"] == Json({"re:^lm_head$", "Linear"}));
  CHECK(quantization_config(plan_of({.exclude = {"lm_head.*"}}))["config_groups"]["group_0"]["targets"] == Json({"Linear"}));
  for (const std::string scheme : {"w8a8", "fp8", "fp8-native", "mxfp8"}) {
    CHECK_FALSE(has(plan_of({.scheme = scheme}), "lm_head.weight"));  // its inputs would be rounded, too
    CHECK(quantized(plan_of({.scheme = scheme})).size() == 3 * 11);
  }
  const Plan blocks = plan_of({.scheme = "q8_0"});
  CHECK(has(blocks, "lm_head.weight"));
  CHECK(has(blocks, "model.embed_tokens.weight"));
  CHECK_FALSE(has(plan_of({.scheme = "q8_0", .include = {"model.layers.*"}}), "model.embed_tokens.weight"));
  // A head that the model does not use stays out of it.
  const Plan tied = plan_of({}, {{"tie_word_embeddings", true}});
  CHECK_FALSE(has(tied, "lm_head.weight"));
  CHECK(std::ranges::count(tied.ignored, "lm_head") == 1);
}

TEST_CASE("matrices that are kept have 16 bits unless asked otherwise; routers and norms stay") {
  const auto kept = [](const Plan& plan, const std::string& name) {
    const auto item = std::ranges::find(plan.items, name, [](const PlanItem& i) { return i.source.name; });
    REQUIRE(item != plan.items.end());
    REQUIRE_FALSE(item->scheme);
    CHECK(item->outputs.at(0).dtype == item->kept_as);
    return item->kept_as;
  };
  const PlanOptions options{.exclude = {"lm_head.*"}};
  for (const auto& [stored, written] :
       {std::pair{DType::f32, DType::bf16}, std::pair{DType::f16, DType::f16}, std::pair{DType::bf16, DType::bf16}}) {
    const Plan plan = plan_of(options, Json::object(), stored);
    CHECK(kept(plan, "model.embed_tokens.weight") == written);
    CHECK(kept(plan, "lm_head.weight") == written);
    CHECK(kept(plan, "model.layers.0.mlp.gate.weight") == stored);
    CHECK(kept(plan, "model.norm.weight") == stored);
  }
  PlanOptions wide = options;
  wide.kept_dtype = WeightDType::f32;
  CHECK(kept(plan_of(wide, Json::object(), DType::f32), "lm_head.weight") == DType::f32);
  CHECK(kept(plan_of(wide, Json::object(), DType::bf16), "lm_head.weight") == DType::f32);
}

TEST_CASE("overrides that have no effect, or no scheme, are refused") {
  CHECK_THROWS_WITH(plan_of({.overrides = {{"*.q_proj.weight", "int7"}}}), Catch::Contains("int7"));
  CHECK_THROWS_WITH(plan_of({.overrides = {{"*.q_proj.weight", ""}}}), Catch::Contains("unknown scheme ''"));
  CHECK_THROWS_WITH(plan_of({.overrides = {{"*.k_proj.weight", "none"}}}), Catch::Contains("'*.k_proj.weight'"));
  CHECK_THROWS_WITH(plan_of({.overrides = {{"*", "none"}, {"*.q_proj.weight", "int8"}}}),
                    Catch::Contains("'*.q_proj.weight' matches no Linear weight"));
  CHECK_THROWS_WITH(plan_of({.overrides = {{"*.mlp.gate.weight", "int8"}}}), Catch::Contains("matches no Linear weight"));
  CHECK_THROWS_WITH(plan_of({.overrides = {{"*", "none"}}}), Catch::Contains("no Linear weight matches"));
}

TEST_CASE("overrides mix schemes of one container only") {
  CHECK(plan_of({.overrides = {{"*.q_proj.weight", "w8a8"}}}).schemes.size() == 2);
  for (const char* name : {"q8_0", "fp8-native"}) {
    CHECK_THROWS_WITH(plan_of({.overrides = {{"*.q_proj.weight", name}}}), Catch::Contains("cannot be in one checkpoint"));
    CHECK_THROWS_WITH(plan_of({.scheme = name, .overrides = {{"*.q_proj.weight", "int8"}}}),
                      Catch::Contains("cannot be in one checkpoint"));
  }
}

TEST_CASE("the stage's options are typed: lists, ordered pairs, names of modes, auto or a number") {
  QuantizeConfig config;
  Options options = options_of(config);
  const auto set = [&](const char* name, const char* value) { find_option(options, name, "quantize").assign(value); };
  set("overrides", "b.*=none, a.*=int8");
  CHECK(config.overrides == StringPairs{{"b.*", "none"}, {"a.*", "int8"}});
  set("exclude", "*.q_proj.weight, *.k_proj.weight");
  CHECK(config.exclude == StringList{"*.q_proj.weight", "*.k_proj.weight"});
  set("smooth-strength", "0.25");
  CHECK(config.smooth_strength == 0.25);
  set("smooth-strength", "auto");
  CHECK_FALSE(config.smooth_strength);
  set("clipping", "mse");
  CHECK(config.clipping == Clipping::mse);
  CHECK_THROWS_WITH(set("overrides", "*.q_proj.weight"), Catch::Contains("'*.q_proj.weight' is not KEY=VALUE"));
  CHECK_THROWS_WITH(set("smooth-strength", "1.5"), Catch::Contains("'auto' or a number from 0 to 1"));
  CHECK_THROWS_WITH(set("clipping", "mean"), Catch::Contains("absmax, mse"));
  CHECK_THROWS_WITH(set("device", "gpu"), Catch::Contains("cpu, cuda, auto"));

  // Statements record the order of overrides; those of 0.1 have one string.
  const Json recorded = to_json(options);
  CHECK(recorded["overrides"] == Json({"b.*=none", "a.*=int8"}));
  QuantizeConfig again;
  Options read = options_of(again);
  from_json(read, recorded, "statement");
  CHECK(again.overrides == config.overrides);
  from_json(read, {{"overrides", "c.*=none,a.*=w8a8"}, {"include", "model.*"}}, "statement");
  CHECK(again.overrides == StringPairs{{"c.*", "none"}, {"a.*", "w8a8"}});
  CHECK(again.include == StringList{"model.*"});
}

TEST_CASE("the projections of one expert have one scheme") {
  CHECK_THROWS_WITH(plan_of({.exclude = {"*.down_proj.weight"}}),
                    Catch::Contains("experts.0.gate_proj.weight would get scheme int8") &&
                        Catch::Contains("use the pattern model.layers.0.mlp.experts.0.*"));
  CHECK_THROWS_AS(plan_of({.overrides = {{"*.experts.10.up_proj.weight", "none"}}}), UsageError);
  CHECK(quantized(plan_of({.overrides = {{"*.experts.10.*", "none"}}})).size() == 3 * 8 + 1);
}

TEST_CASE("module patterns match the given modules and no others") {
  const Listed source;
  std::vector<std::string> all;
  for (const TensorInfo& t : source.tensors()) all.push_back(t.name.substr(0, t.name.size() - 7));
  const auto check = [&](const std::string& chosen_by) {
    std::vector<std::string> modules, others;
    for (const std::string& m : all) (matches_pattern(m, chosen_by) ? modules : others).push_back(m);
    const std::vector<std::string> patterns = module_patterns(modules, others);
    for (const std::string& m : all) {
      bool matched = false;  // as compressed-tensors: re.match from the beginning, or equality
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
  CHECK(check("*").size() == 9);
  CHECK(check("lm_head") == std::vector<std::string>{"re:^lm_head$"});
  CHECK(check("nothing").empty());
}
