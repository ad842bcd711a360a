#include "model/decoder.h"
#include "model/generator.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "core/json.h"
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
  const DType dtype = GENERATE(DType::f32, DType::bf16, DType::f16);
  const ModelConfig config = GENERATE(random_dense_config(), random_moe_config(), random_gated_moe_config());
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
    const bool exact = dtype == DType::f32 || before[i].name.find("router") != std::string::npos;
    CHECK(at::equal(exact ? before[i].tensor : before[i].tensor.to(scalar_type_of(dtype)).to(at::kFloat), after[i].tensor));
  }
  CHECK(again.config().to_json() == config.to_json());
  if (!config.shared_gate) return;
  const at::Tensor gate = decoder.layers()[0].shared_gate;  // no parameter: it is not trained
  CHECK(at::equal(again.layers()[0].shared_gate, gate.to(scalar_type_of(dtype)).to(at::kFloat)));
}

TEST_CASE("weights that are rounded in memory are those that are read back, and f16 refuses what it cannot hold") {
  const ModelConfig config = random_moe_config();
  for (const DType dtype : {DType::bf16, DType::f16}) {
    Decoder decoder(config, RandomSource(config));
    const at::Tensor router = decoder.layers()[0].router.clone();
    round_weights(decoder, dtype);
    TempFolder scratch;
    OutputFolder folder(scratch.path());
    save_decoder(decoder, folder, dtype);
    const Decoder again(open_checkpoint(scratch.path()));
    const auto ours = decoder.parameters(), read = again.parameters();
    for (size_t i = 0; i < ours.size(); ++i) CHECK(at::equal(ours[i].tensor, read[i].tensor));
    CHECK(at::equal(decoder.layers()[0].router, router));
    CHECK(open_checkpoint(scratch.path()).tensors->find("model.layers.0.mlp.gate.weight")->dtype == DType::f32);

    decoder.layers()[0].router[0][0] = 1e6;  // stays f32
    CHECK_NOTHROW(round_weights(decoder, dtype));
    decoder.layers()[0].q[0][0] = 7e4;
    if (dtype == DType::bf16) CHECK_NOTHROW(round_weights(decoder, dtype));
    else CHECK_THROWS_AS(round_weights(decoder, dtype), DivergenceError);
  }
}

TEST_CASE("the head is written when it is not tied to the embedding") {
  ModelConfig config = random_dense_config();
  for (const bool tied : {true, false}) {
    config.tie_embeddings = tied;
    const Decoder decoder(config, RandomSource(config));
    TempFolder scratch;
    OutputFolder folder(scratch.path());
    save_decoder(decoder, folder, DType::f32);
    const Checkpoint checkpoint = open_checkpoint(scratch.path());
    CHECK((checkpoint.tensors->find("lm_head.weight") != nullptr) != tied);
    const Decoder again(checkpoint);
    CHECK(at::equal(again.head(), decoder.head()));
    CHECK(again.parameters().back().name == (tied ? "final_norm" : "head"));
  }
}

TEST_CASE("config.json names the stored type as current transformers does, and nothing else") {
  const ModelConfig config = random_dense_config();
  const Decoder decoder(config, RandomSource(config));
  for (const auto& [dtype, word] :
       {std::pair{DType::f32, "float32"}, std::pair{DType::bf16, "bfloat16"}, std::pair{DType::f16, "float16"}}) {
    TempFolder scratch;
    OutputFolder folder(scratch.path());
    save_decoder(decoder, folder, dtype);
    const Json written = *open_checkpoint(scratch.path()).config;
    CHECK(written.at("dtype") == word);
    CHECK_FALSE(written.contains("torch_dtype"));
  }
}

TEST_CASE("a decoder in f64 gives what the f32 one gives, and its gradients") {
  ModelConfig config = random_config(GENERATE(false, true));
  config.qk_norm = false;
  const RandomSource source(config);
  const Decoder ours(config, source), wide(config, source, {at::kCPU, at::kDouble});
  CHECK(ours.placement() == Placement{});
  for (const Decoder* d : {&ours, &wide})
    for (NamedTensor& p : d->parameters()) p.tensor.set_requires_grad(p.name.find("router_bias") == std::string::npos);
  const at::Tensor tokens = some_tokens(3, 23);
  const at::Tensor a = ours.logits(ours.hidden(tokens)), b = wide.logits(wide.hidden(tokens));
  CHECK(b.scalar_type() == at::kDouble);
  CHECK((a - b).abs().max().item<double>() <= 2e-5 * b.abs().max().item<double>());
  a.pow(2).mean().backward();
  b.pow(2).mean().backward();
  const auto pa = ours.parameters(), pb = wide.parameters();
  for (size_t i = 0; i < pa.size(); ++i) {
    if (!pa[i].tensor.requires_grad()) continue;
    INFO(pa[i].name);
    const at::Tensor ga = pa[i].tensor.grad(), gb = pb[i].tensor.grad();
    CHECK((ga - gb).abs().max().item<double>() <= 1e-4 * gb.abs().max().item<double>());
  }
  // The cache as well: a prompt, then one token, then several.
  const Generator one_by_one(config, source), wide_one_by_one(config, source, {at::kCPU, at::kDouble});
  KvCache one, two;
  for (const auto& [first, count] : {std::pair{0, 9}, {9, 1}, {10, 6}}) {
    const at::Tensor piece = tokens.narrow(0, 0, 1).narrow(1, first, count);
    const at::Tensor ha = one_by_one.hidden_cached(piece, one), hb = wide_one_by_one.hidden_cached(piece, two);
    CHECK((ha - hb).abs().max().item<double>() <= 2e-5 * hb.abs().max().item<double>());
  }
}

TEST_CASE("a decoder in bf16 is near the f32 one, and saves the weights that it has") {
  const ModelConfig config = random_config(GENERATE(false, true));
  const RandomSource source(config);
  const Decoder ours(config, source), half(config, source, {at::kCPU, at::kBFloat16});
  const at::Tensor tokens = some_tokens(2, 19);
  at::NoGradGuard no_grad;
  ForwardOptions all;  // every expert, so that rounding cannot change which are chosen
  if (config.is_moe()) all.top_k = config.n_routed_experts;
  const at::Tensor a = ours.hidden(tokens, all), b = half.hidden(tokens, all);
  CHECK(b.scalar_type() == at::kBFloat16);
  CHECK((a - b.to(at::kFloat)).norm().item<double>() <= 0.05 * a.norm().item<double>());
  if (config.is_moe()) CHECK(half.layers()[0].router.scalar_type() == at::kFloat);
  TempFolder scratch;
  OutputFolder folder(scratch.path());
  save_decoder(half, folder, DType::bf16);
  const Decoder again(open_checkpoint(scratch.path()), {at::kCPU, at::kBFloat16});
  CHECK(at::equal(again.hidden(tokens), half.hidden(tokens)));
}

TEST_CASE("segments of a sequence are read as sequences of their own, values and gradients") {
  const bool moe = GENERATE(false, true);
  const ModelConfig config = random_config(moe);
  const Decoder decoder(config, RandomSource(config)), whole(config, RandomSource(config));
  const at::Tensor tokens = some_tokens(2, 12);
  const std::vector<std::vector<int64_t>> lengths = {{5, 1, 6}, {12}};
  std::vector<int32_t> numbers;
  for (const auto& row : lengths)
    for (size_t s = 0; s < row.size(); ++s) numbers.insert(numbers.end(), size_t(row[s]), int32_t(s));
  ForwardOptions options;
  options.segments = at::tensor(numbers, at::kInt).view({2, 12});
  for (const Decoder* each : {&decoder, &whole})
    for (const NamedTensor& p : each->parameters()) at::Tensor(p.tensor).set_requires_grad(true);
  std::vector<at::Tensor> parts;
  for (int64_t b = 0; b < 2; ++b) {
    int64_t at = 0;
    for (const int64_t length : lengths[size_t(b)]) {
      parts.push_back(whole.hidden(tokens.narrow(0, b, 1).narrow(1, at, length)));
      at += length;
    }
  }
  const at::Tensor together = decoder.hidden(tokens, options), apart = at::cat(parts);
  CHECK(at::allclose(together, apart, 1e-4, 1e-5));
  CHECK_FALSE(at::allclose(together, decoder.hidden(tokens), 1e-2, 1e-2));
  const at::Tensor weights = at::sin(at::arange(together.numel(), at::kFloat)).view(together.sizes());
  (together * weights).sum().backward();
  (apart * weights).sum().backward();
  for (size_t i = 0; i < decoder.parameters().size(); ++i) {
    const at::Tensor ours = decoder.parameters()[i].tensor.grad(), theirs = whole.parameters()[i].tensor.grad();
    INFO(decoder.parameters()[i].name);
    REQUIRE(ours.defined() == theirs.defined());
    if (ours.defined()) CHECK(at::allclose(ours, theirs, 1e-3, 1e-4));
  }
}

TEST_CASE("one FFN at a time gives what the whole block gives") {
  const ModelConfig config = random_config(GENERATE(false, true));
  const Decoder decoder(config, RandomSource(config));
  at::NoGradGuard no_grad;
  const int64_t tokens = 21;
  std::vector<at::Tensor> inputs;
  ForwardOptions options;
  if (GENERATE(false, true)) options.segments = at::arange(tokens, at::kInt).ge(8).to(at::kInt).view({1, tokens});
  options.on_ffn_input = [&](int64_t, const at::Tensor& x) { inputs.push_back(x); };
  const at::Tensor ids = some_tokens(1, tokens), whole = decoder.hidden(ids, options);
  at::Tensor x = decoder.embed(ids);
  for (int64_t l = 0; l < config.layers; ++l) {
    x = decoder.attention_block(l, x, 1, nullptr, options.segments);
    const at::Tensor h = decoder.ffn_input(l, x);
    CHECK(at::allclose(h, inputs[size_t(l)], 1e-4, 1e-5));
    x = x + decoder.ffn_pass(l, kDenseFfn, h).out;
    if (!config.is_moe()) continue;
    const ops::Routing routing = decoder.route(l, h);
    for (int64_t e = 0; e < config.n_routed_experts; ++e) {
      const at::Tensor y = decoder.ffn_pass(l, e, h).out;
      x = x + y * (routing.weights * routing.selected.eq(e)).sum(1, true);
    }
  }
  const at::Tensor last = decoder.weights().final_norm * (x * (x.pow(2).mean(-1, true) + config.rms_norm_eps).rsqrt());
  CHECK(at::allclose(last, whole, 1e-4, 1e-5));
}

TEST_CASE("the number of active experts can be changed, and is saved") {
  const ModelConfig config = random_moe_config();
  Decoder decoder(config, RandomSource(config));
  at::NoGradGuard no_grad;
  ForwardOptions three;
  three.top_k = 3;
  const at::Tensor ids = some_tokens(1, 12), expected = decoder.hidden(ids, three);
  CHECK_FALSE(at::equal(decoder.hidden(ids), expected));
  decoder.set_active_experts(3);
  CHECK(at::equal(decoder.hidden(ids), expected));
  TempFolder scratch;
  OutputFolder folder(scratch.path());
  save_decoder(decoder, folder, DType::f32);
  CHECK(Decoder(open_checkpoint(scratch.path())).config().top_k == 3);
  CHECK_THROWS_AS(decoder.set_active_experts(6), std::logic_error);
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
  CHECK(at::equal(records[0].load, ops::expert_load(records[0].selected, config.n_routed_experts)));

  records.clear();
  options.on_ffn_input = nullptr;
  options.top_k = config.n_routed_experts;  // all of them
  decoder.hidden(some_tokens(1, 4), options);
  CHECK(at::equal(records[1].load, at::full({config.n_routed_experts}, 4, at::kLong)));
}

TEST_CASE("ids outside the vocabulary are refused") {
  const ModelConfig config = random_dense_config();
  const Decoder decoder(config, RandomSource(config));
  CHECK_THROWS_AS(decoder.hidden(at::full({1, 3}, 97, at::kLong)), MismatchError);
  CHECK_THROWS_AS(decoder.hidden(at::full({1, 3}, -1, at::kLong)), MismatchError);
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
  refused(dense, {{"model_type", "qwen3"}, {"mlp_bias", true}}, "mlp_bias");
  refused(dense, {{"rope_parameters", {{"rope_type", "yarn"}}}}, "'rope_parameters.factor' is missing");
  refused(dense, {{"rope_parameters", {{"rope_type", "spiral"}}}}, "spiral");
  refused(dense, {{"rope_parameters", {{"rope_type", "longrope"}, {"factor", 2.0}, {"short_factor", {1.0}}, {"long_factor", {1.0}}}}}, "short_factor");
  refused(dense, {{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, "partial_rotary_factor");
  refused(dense, {{"hidden_size", nullptr}}, "hidden_size");
  refused(dense, {{"hidden_size", -4}}, "hidden_size");
  refused(dense, {{"num_hidden_layers", int64_t{1} << 40}}, "num_hidden_layers");
  refused(dense, {{"num_key_value_heads", 4}}, "num_key_value_heads");
  refused(dense, {{"head_dim", 7}}, "head_dim");
  refused(dense, {{"use_sliding_window", true}}, "use_sliding_window");
  refused(dense, {{"is_causal", false}}, "'is_causal' is not true");
  refused(dense, {{"is_causal", 0}}, "'is_causal' is not true");
  refused(dense, {{"model_type", "qwen3"}, {"layer_types", {"chunked_attention", "full_attention"}}}, "chunked_attention");
  refused(dense, {{"model_type", "qwen3"}, {"layer_types", {"full_attention", "sliding_attention"}}}, "sliding_attention");
  refused(moe, {{"rope_parameters", {{"partial_rotary_factor", 0.1}}}}, "partial_rotary_factor");
  refused(moe, {{"n_group", 2}}, "n_group");
  refused(moe, {{"num_experts_per_tok", 6}}, "num_experts_per_tok");
  // Where transformers computes with None, and fails.
  for (const char* key : {"n_group", "topk_group", "routed_scaling_factor", "n_shared_experts"}) {
    Json null = moe;
    null[key] = nullptr;
    refused(null, Json::object(), std::string("'") + key + "' is null");
  }
  for (const char* key : {"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"}) {
    Json null = dense;
    null["model_type"] = "granite";
    null[key] = nullptr;
    refused(null, Json::object(), std::string("'") + key + "' is null");
  }
  refused(dense, {{"model_type", "stablelm"}, {"head_dim", 16}}, "'head_dim' is 16, and heads have 8 values");
  Json causal = dense;
  causal["is_causal"] = true;
  CHECK_NOTHROW(ModelConfig::from_json(causal, "config.json"));
  causal["is_causal"] = nullptr;  // a patch would erase it
  refused(causal, Json::object(), "'is_causal' is not true");
}

TEST_CASE("what is computed and cannot be trained is known from config.json, and written as it was read") {
  const Json dense = random_dense_config().to_json(), moe = random_moe_config().to_json();
  const auto limited = [](Json config, const Json& patch, const std::string& word) {
    config.merge_patch(patch);
    INFO(patch.dump());
    const ModelConfig c = ModelConfig::from_json(config, "config.json");
    CHECK_THAT(c.why_not_trained(), Catch::Contains(word));
    CHECK(c.to_json() == config);
  };
  CHECK(ModelConfig::from_json(dense, "config.json").why_not_trained().empty());
  CHECK(ModelConfig::from_json(dense, "config.json").why_not_carved().empty());
  CHECK(ModelConfig::from_json(moe, "config.json").why_not_trained().empty());
  limited(dense, {{"model_type", "granite"}}, "granite");
  limited(dense, {{"attention_bias", true}}, "bias");
  limited(dense, {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}}}}, "'linear'");
  limited(dense, {{"model_type", "mistral"}, {"sliding_window", 128}}, "sliding windows");
  limited(moe, {{"rope_parameters", {{"partial_rotary_factor", nullptr}}}, {"partial_rotary_factor", nullptr}}, "a part of its heads");
  limited(moe, {{"first_k_dense_replace", 1}}, "dense layers");
  limited(moe, {{"first_k_dense_replace", nullptr}}, "dense layers");  // left out it means 1
  limited(moe, {{"n_routed_experts", 6}, {"n_group", 3}, {"topk_group", 2}}, "in groups");
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
