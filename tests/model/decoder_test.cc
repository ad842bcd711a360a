#include "model/decoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "core/json.h"
#include "model/moe.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

namespace overproof {
namespace {

at::Tensor some_tokens(int64_t batch, int64_t length) {
  return (at::arange(batch * length) * 37 % 97).view({batch, length}).to(at::kLong);
}

ModelConfig random_config(bool moe) { return moe ? random_moe_config() : random_dense_config(); }

}  // namespace

TEST_CASE("a saved decoder is read back") {
  const bool moe = GENERATE(false, true);
  const SaveDType dtype = GENERATE(SaveDType::f32, SaveDType::bf16);
  const ModelConfig config = random_config(moe);
  const Decoder decoder(config, RandomSource(config));
  TempFolder scratch;
  OutputFolder folder(scratch.path());
  save_decoder(decoder, folder, dtype);
  const Decoder again(open_checkpoint(scratch.path()));
  const auto before = decoder.parameters(), after = again.parameters();
  REQUIRE(before.size() == after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    INFO(before[i].name);
    CHECK(before[i].name == after[i].name);
    const bool exact = dtype == SaveDType::f32 || before[i].name.find("router") != std::string::npos;
    CHECK(at::equal(exact ? before[i].tensor : before[i].tensor.to(at::kBFloat16).to(at::kFloat), after[i].tensor));
  }
  CHECK(again.config().to_json() == config.to_json());
}

TEST_CASE("an untied copy of a tied model writes its head") {
  const ModelConfig config = random_dense_config();
  Decoder decoder(config, RandomSource(config));
  decoder.config().tie_embeddings = false;
  TempFolder scratch;
  OutputFolder folder(scratch.path());
  save_decoder(decoder, folder, SaveDType::f32);
  const Decoder again(open_checkpoint(scratch.path()));
  CHECK(at::equal(again.head(), decoder.head()));
  CHECK(again.parameters().back().name == "head");
}

TEST_CASE("gradients reach every weight that asks and no other") {
  const ModelConfig config = random_config(GENERATE(false, true));
  const Decoder decoder(config, RandomSource(config));
  const std::string only = GENERATE("", "router", "norm", "embedding");
  for (NamedTensor& p : decoder.parameters())
    p.tensor.set_requires_grad(p.name.find(only) != std::string::npos && p.name.find("router_bias") == std::string::npos);
  const at::Tensor hidden = decoder.hidden(some_tokens(2, 24));
  if (!hidden.requires_grad()) {
    CHECK(only == "router");  // a dense model has none
    CHECK(!config.is_moe());
    return;
  }
  torch::autograd::backward({decoder.logits(hidden).pow(2).mean()});
  for (const NamedTensor& p : decoder.parameters()) {
    INFO(only << ": " << p.name);
    REQUIRE(p.tensor.grad().defined() == p.tensor.requires_grad());
    if (p.tensor.requires_grad()) CHECK(p.tensor.grad().abs().max().item<double>() > 0);
  }
}

TEST_CASE("routing is recorded on request") {
  const ModelConfig config = random_moe_config();
  const Decoder decoder(config, RandomSource(config));
  std::vector<RouterRecord> records;
  std::vector<int64_t> seen;
  ForwardOptions options;
  options.routing = &records;
  options.record_selected = true;
  options.on_ffn_input = [&](int64_t layer, const at::Tensor& x) {
    CHECK(x.sizes() == at::IntArrayRef{30, config.hidden_size});
    seen.push_back(layer);
  };
  decoder.hidden(some_tokens(2, 15), options);
  CHECK(seen == std::vector<int64_t>{0, 1});
  REQUIRE(records.size() == 2);
  CHECK(records[0].load.sum().item<int64_t>() == 30 * config.top_k);
  CHECK(at::equal(records[0].load, expert_load(records[0].selected, config.n_routed_experts)));

  records.clear();
  options.on_ffn_input = nullptr;
  options.top_k = config.n_routed_experts;  // all of them
  decoder.hidden(some_tokens(1, 4), options);
  CHECK(at::equal(records[1].load, at::full({config.n_routed_experts}, 4, at::kLong)));
}

TEST_CASE("ids outside the vocabulary are refused") {
  const ModelConfig config = random_dense_config();
  const Decoder decoder(config, RandomSource(config));
  CHECK_THROWS_AS(decoder.hidden(at::full({1, 3}, 97, at::kLong)), UsageError);
  CHECK_THROWS_AS(decoder.hidden(at::full({1, 3}, -1, at::kLong)), UsageError);
}

TEST_CASE("a missing or misshapen tensor is named") {
  ModelConfig config = random_dense_config();
  const RandomSource source(config);
  config.layers = 3;
  CHECK_THROWS_WITH(Decoder(config, source), Catch::Contains("model.layers.2.input_layernorm.weight"));
  config.layers = 2;
  config.intermediate_size = 81;
  CHECK_THROWS_WITH(Decoder(config, source),
                    Catch::Contains("model.layers.0.mlp.gate_proj.weight") && Catch::Contains("[81, 48]"));
}

TEST_CASE("configurations that would be read wrongly are refused") {
  const Json dense = random_dense_config().to_json(), moe = random_moe_config().to_json();
  const auto refused = [](Json config, const Json& patch, const std::string& word) {
    config.merge_patch(patch);
    INFO(patch.dump());
    CHECK_THROWS_WITH(ModelConfig::from_json(config, "config.json"), Catch::Contains(word));
  };
  CHECK_NOTHROW(ModelConfig::from_json(dense, "config.json"));
  refused(dense, {{"hidden_size", INT32_MAX}, {"intermediate_size", INT32_MAX}, {"num_hidden_layers", 4096}},
          "more weights than can be counted");
  refused(moe, {{"n_routed_experts", INT32_MAX}, {"moe_intermediate_size", INT32_MAX}}, "more weights than can be counted");
  refused(dense, {{"model_type", "gemma3"}}, "gemma3");
  refused(dense, {{"hidden_act", "gelu"}}, "gelu");
  refused(dense, {{"attention_bias", true}}, "attention_bias");
  refused(dense, {{"mlp_bias", true}}, "mlp_bias");
  refused(dense, {{"rope_parameters", {{"rope_type", "yarn"}}}}, "yarn");
  refused(dense, {{"hidden_size", nullptr}}, "hidden_size");
  refused(dense, {{"hidden_size", -4}}, "hidden_size");
  refused(dense, {{"num_hidden_layers", int64_t{1} << 40}}, "num_hidden_layers");
  refused(dense, {{"num_key_value_heads", 4}}, "num_key_value_heads");
  refused(dense, {{"head_dim", 7}}, "head_dim");
  refused(dense, {{"model_type", "mistral"}, {"sliding_window", 128}}, "sliding window");
  refused(dense, {{"model_type", "qwen2"}, {"use_sliding_window", true}}, "use_sliding_window");
  refused(dense, {{"model_type", "qwen3"}, {"layer_types", {"full_attention", "sliding_attention"}}}, "sliding_attention");
  refused(moe, {{"rope_parameters", {{"partial_rotary_factor", nullptr}}}, {"partial_rotary_factor", nullptr}},
          "partial_rotary_factor");
  refused(moe, {{"first_k_dense_replace", 1}}, "first_k_dense_replace");
  refused(moe, {{"first_k_dense_replace", nullptr}}, "first_k_dense_replace");  // left out it means 1
  refused(moe, {{"n_group", 2}}, "n_group");
  refused(moe, {{"num_experts_per_tok", 6}}, "num_experts_per_tok");
}

TEST_CASE("parameters are counted, and the active ones among them") {
  const ModelConfig config = random_config(GENERATE(false, true));
  const Decoder decoder(config, RandomSource(config));
  int64_t all = 0, routed = 0;
  for (const NamedTensor& p : decoder.parameters()) {
    all += p.tensor.numel();
    if (p.name.find("experts.") != std::string::npos) routed += p.tensor.numel();
  }
  CHECK(config.parameters() == all);
  CHECK(config.active_parameters() == all - (config.is_moe() ? routed * 3 / 5 : 0));
  CHECK(config.ffn_activation() == Approx(config.is_moe() ? 0.5 : 1.0));
}

}  // namespace overproof
