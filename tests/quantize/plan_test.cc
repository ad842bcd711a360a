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
  for (const std::string scheme : {"w8a8", "fp8", "mxfp8"}) {
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

TEST_CASE("what runtimes load together has one scheme, or the options are refused with the pattern to use") {
  using Catch::Contains;
  CHECK_THROWS_WITH(plan_of({.exclude = {"*.down_proj.weight"}}),
                    Contains("experts.0.gate_proj.weight would get scheme int8") && Contains("use the pattern model.layers.0.mlp.experts.*"));
  for (const char* part : {"*.experts.10.up_proj.weight", "*.experts.10.*", "model.layers.1.mlp.experts.0.*"}) {
    CHECK_THROWS_AS(plan_of({.overrides = {{part, "none"}}}), UsageError);
    CHECK_THROWS_AS(plan_of({.overrides = {{part, "w8a8"}}}), UsageError);
    CHECK_THROWS_AS(plan_of({.exclude = {part}}), UsageError);
    CHECK_THROWS_AS(plan_of({.include = {part}}), UsageError);
  }
  CHECK(quantized(plan_of({.overrides = {{"model.layers.1.mlp.experts.*", "none"}}})).size() == 2 * 9 + 3 * 2 + 1);
}

TEST_CASE("the units of weights that runtimes load together") {
  CHECK(fused_unit("model.layers.2.self_attn.q_proj.weight") == "model.layers.2.self_attn.qkv");
  CHECK(fused_unit("model.layers.2.self_attn.v_proj.weight") == "model.layers.2.self_attn.qkv");
  CHECK(fused_unit("model.layers.2.self_attn.o_proj.weight") == "model.layers.2.self_attn.o_proj.weight");
  CHECK(fused_unit("model.layers.2.mlp.up_proj.weight") == "model.layers.2.mlp.gate_up");
  CHECK(fused_unit("model.layers.2.mlp.shared_experts.gate_proj.weight") == "model.layers.2.mlp.shared_experts.gate_up");
  CHECK(fused_unit("model.layers.2.mlp.experts.7.down_proj.weight") == "model.layers.2.mlp.experts");
  CHECK(fused_unit("model.layers.2.block_sparse_moe.experts.0.w2.weight") == "model.layers.2.block_sparse_moe.experts");
  CHECK(fused_unit("model.layers.2.self_attn.q_a_proj.weight") == fused_unit("model.layers.2.self_attn.kv_a_proj_with_mqa.weight"));
  CHECK(fused_unit("model.layers.2.self_attn.q_a_proj.weight") != fused_unit("model.layers.2.self_attn.q_b_proj.weight"));
  CHECK(fused_unit("lm_head.weight") == "lm_head.weight");
}

/// A dense model of one layer, with the given rows of k and v, width and intermediate width.
class Dense final : public TensorSource {
 public:
  Dense(int64_t width, int64_t inner, int64_t kv_rows) {
    const std::string layer = "model.layers.0.";
    for (const auto& [name, rows, columns] : std::vector<std::tuple<std::string, int64_t, int64_t>>{
             {"self_attn.q_proj", width, width}, {"self_attn.k_proj", kv_rows, width}, {"self_attn.v_proj", kv_rows, width},
             {"self_attn.o_proj", width, width}, {"mlp.gate_proj", inner, width},      {"mlp.up_proj", inner, width},
             {"mlp.down_proj", width, inner}})
      list_.push_back({layer + name + ".weight", DType::bf16, {rows, columns}});
  }
  const std::vector<TensorInfo>& tensors() const override { return list_; }
  void read_f32(std::string_view, int64_t, int64_t, std::span<float>) const override { throw std::logic_error("a plan reads no weight"); }

 private:
  std::vector<TensorInfo> list_;
};

Plan dense_plan(const PlanOptions& options, int64_t width, int64_t inner, int64_t kv_rows) {
  Checkpoint model;
  model.path = "model";
  *model.config = {{"model_type", "llama"}, {"num_hidden_layers", 1}, {"tie_word_embeddings", true}};
  model.tensors = std::make_unique<Dense>(width, inner, kv_rows);
  return make_plan(options, model);
}

TEST_CASE("q, k and v, and gate and up, have one scheme in formats whose runtimes fuse them") {
  for (const char* part : {"*.q_proj.weight", "*.k_proj.weight", "*.gate_proj.weight", "*.up_proj.weight"}) {
    INFO(part);
    for (const char* scheme : {"int8", "fp8", "w8a8", "fp8-native"})
      CHECK_THROWS_WITH(dense_plan({.scheme = scheme, .exclude = {part}}, 256, 512, 128), Catch::Contains("patterns that match all of them"));
    CHECK_THROWS_AS(dense_plan({.include = {part}}, 256, 512, 128), UsageError);
    CHECK_THROWS_AS(dense_plan({.overrides = {{part, "w8a8"}}}, 256, 512, 128), UsageError);
    CHECK(quantized(dense_plan({.scheme = "q8_0", .exclude = {part}}, 256, 512, 128)).size() >= 5);  // llama.cpp fuses none
  }
  CHECK(quantized(dense_plan({.exclude = {"*.q_proj.weight", "*.k_proj.weight", "*.v_proj.weight"}}, 256, 512, 128)).size() == 4);
  CHECK(quantized(dense_plan({.exclude = {"*.o_proj.weight"}}, 256, 512, 128)).size() == 6);
}

TEST_CASE("schemes of blocks keep what 128 does not divide, with all that runtimes load together, and name it") {
  for (const char* scheme : {"fp8-block", "fp8-native"}) {
    CHECK(quantized(dense_plan({.scheme = scheme}, 256, 512, 128)).size() == 7);
    const Plan small_kv = dense_plan({.scheme = scheme}, 256, 512, 64);
    CHECK(quantized(small_kv).size() == 4);
    CHECK(small_kv.not_taken.size() == 3);  // q could be held; k and v cannot
    CHECK(std::ranges::count(small_kv.ignored, "model.layers.0.self_attn.q_proj") == 1);
    CHECK(quantized(dense_plan({.scheme = scheme}, 256, 200, 128)).size() == 4);
    CHECK_THROWS_WITH(dense_plan({.scheme = scheme}, 576, 96, 192), Catch::Contains("cannot hold any") && Catch::Contains("multiples of 128"));
  }
  CHECK(quantized(dense_plan({.scheme = "fp8"}, 576, 96, 192)).size() == 7);
}

TEST_CASE("a pattern that matches nothing is refused before anything is read") {
  using Catch::Contains;
  CHECK_THROWS_WITH(plan_of({.exclude = {"*.nosuch.*"}}), Contains("exclude: pattern '*.nosuch.*' matches no tensor"));
  CHECK_THROWS_WITH(plan_of({.include = {"model.layers.*", "model.layer.0.*"}}), Contains("include: pattern 'model.layer.0.*'"));
  CHECK_THROWS_WITH(plan_of({.include = {"model.layers.*", "*embed*"}}), Contains("scheme int8 never quantizes"));
  CHECK_THROWS_WITH(dense_plan({.include = {"lm_head.weight", "model.layers.*"}}, 256, 512, 128), Contains("'lm_head.weight' matches no tensor"));
  CHECK_NOTHROW(dense_plan({.exclude = {"lm_head.*"}}, 256, 512, 128));  // a tied head is kept, as is asked for
  CHECK_NOTHROW(plan_of({.exclude = {"*.mlp.gate.*"}}));                 // so is a router
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
