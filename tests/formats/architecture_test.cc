// Roles of tensors, experts cut out of their stacks, and the contract that every source of tensors keeps.
#include <catch2/catch.hpp>

#include <numeric>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "formats/architecture.h"
#include "formats/gguf_checkpoint.h"
#include "formats/quantization_config.h"
#include "formats/safetensors_checkpoint.h"
#include "formats/sharded.h"
#include "tests/formats/contract.h"
#include "tests/formats/gguf_builder.h"
#include "tests/support.h"

using namespace overproof;
using namespace overproof::test;

namespace {

/// Tensors of random bf16 in shards of 64 bytes, and config.json.
void write_model(const fs::path& path, const std::vector<TensorInfo>& tensors, const Json& config, int64_t max_shard_bytes = 64) {
  OutputFolder folder(path);
  Rng rng(3, "model");
  ShardedWriter writer(folder, tensors, {}, max_shard_bytes);
  for (const TensorInfo& t : tensors) {
    std::vector<float> values(size_t(t.elements()));
    for (float& v : values) v = float(int(rng.below(512)) - 256) / 256;
    writer.append_f32(values);
  }
  writer.close();
  write_text(path / "config.json", config.dump());
}

std::string role_of(const Architecture& architecture, const std::string& name, const std::vector<int64_t>& shape = {8, 8}) {
  return std::string(role_name(architecture.role({name, DType::bf16, shape})));
}

const std::string kGateUp = "model.layers.0.mlp.experts.gate_up_proj", kDown = "model.layers.0.mlp.experts.down_proj";

}  // namespace

TEST_CASE("tensors of known models have the roles of their names") {
  const Architecture deepseek({{"model_type", "deepseek_v3"}, {"num_hidden_layers", 2}, {"n_routed_experts", 4}});
  CHECK(deepseek.known());
  CHECK(deepseek.assumption().empty());
  CHECK(role_of(deepseek, "model.embed_tokens.weight") == "embedding");
  CHECK(role_of(deepseek, "lm_head.weight") == "head");
  CHECK(role_of(deepseek, "model.norm.weight") == "norm");
  CHECK(role_of(deepseek, "model.layers.1.self_attn.kv_a_proj_with_mqa.weight") == "linear");
  CHECK(role_of(deepseek, "model.layers.1.self_attn.kv_b_proj.weight") == "linear");
  CHECK(role_of(deepseek, "model.layers.1.self_attn.kv_a_layernorm.weight") == "norm");
  CHECK(role_of(deepseek, "model.layers.1.mlp.gate.weight") == "router");
  CHECK(role_of(deepseek, "model.layers.1.mlp.gate.e_score_correction_bias") == "router_bias");
  CHECK(role_of(deepseek, "model.layers.1.mlp.experts.255.up_proj.weight") == "expert_linear");
  CHECK(role_of(deepseek, "model.layers.1.mlp.experts.x.up_proj.weight") == "other");
  CHECK(role_of(deepseek, "model.layers.1.mlp.experts..up_proj.weight") == "other");
  CHECK(role_of(deepseek, "model.layers.1.mlp.experts.255.up_proj.weight.more") == "other");
  CHECK(role_of(deepseek, "model.layers.1.mlp.shared_experts.up_proj.weight") == "linear");
  CHECK(role_of(deepseek, "model.layers.1.mlp.shared_experts.up_proj.input_scale") == "quantization");
  CHECK(role_of(deepseek, "model.layers.1.self_attn.q_a_proj.bias") == "other");
  CHECK(role_of(deepseek, "model.layers.2.mlp.experts.0.up_proj.weight") == "mtp");
  CHECK(role_of(deepseek, "model.layers.2.eh_proj.weight") == "mtp");
  CHECK(role_of(deepseek, "model.layers.99999999999999999999.mlp.up_proj.weight") == "other");
  const Architecture granite({{"model_type", "granitemoe"}, {"num_hidden_layers", 2}, {"num_local_experts", 4}});
  CHECK(role_of(granite, "model.layers.0.block_sparse_moe.input_linear.weight", {4, 8, 8}) == "fused_experts");
  CHECK(granite.split("x", {"model.layers.0.block_sparse_moe.input_linear.weight", DType::bf16, {4, 8, 8}}).empty());
  CHECK(role_of(granite, "model.layers.0.block_sparse_moe.router.layer.weight") == "router");
  const Architecture qwen({{"model_type", "qwen2_moe"}, {"num_hidden_layers", 2}});
  CHECK(role_of(qwen, "model.layers.0.mlp.shared_expert_gate.weight", {1, 8}) == "router");
  CHECK(role_of(qwen, "model.layers.0.mlp.shared_expert.down_proj.weight") == "linear");
}

TEST_CASE("tensors of unknown models are guessed, and the guess is described") {
  const Architecture unknown({{"model_type", "newest"}, {"text_config", {{"num_hidden_layers", 2}, {"num_experts", 16}}}});
  CHECK_FALSE(unknown.known());
  CHECK_THAT(unknown.assumption(), Catch::Contains("'newest'") && Catch::Contains("deepseek_v3") && Catch::Contains("16"));
  CHECK(role_of(unknown, "transformer.h.3.attn.c_attn.weight") == "linear");
  CHECK(role_of(unknown, "model.language_model.layers.0.mamba.in_proj.weight") == "linear");
  CHECK(role_of(unknown, "model.layers.0.moe.experts.3.fc1.weight") == "expert_linear");
  CHECK(role_of(unknown, "model.layers.0.moe.experts.3.gate.weight") == "expert_linear");
  CHECK(role_of(unknown, "model.layers.0.mlp.gate.weight") == "router");
  CHECK(role_of(unknown, "model.layers.0.mlp.router.linear.weight") == "router");
  CHECK(role_of(unknown, "model.layers.0.mlp.chooser.weight", {16, 8}) == "router");
  CHECK(role_of(unknown, "model.layers.0.mlp.gate.expert_bias", {16}) == "router_bias");
  CHECK(role_of(unknown, "model.layers.0.ffn_norm.weight", {8}) == "norm");
  CHECK(role_of(unknown, "model.layers.0.dt_bias", {8}) == "other");
  CHECK(role_of(unknown, "model.layers.0.conv1d.weight", {8, 1, 4}) == "other");
  CHECK(role_of(unknown, "model.layers.0.experts.w1", {16, 8, 8}) == "fused_experts");
  CHECK(unknown.split("x", {kGateUp, DType::bf16, {16, 8, 8}}).empty());
  CHECK(role_of(unknown, "model.layers.2.mlp.up_proj.weight") == "mtp");
  CHECK(role_of(unknown, "model.visual.blocks.0.fc1.weight") == "other");
  CHECK(role_of(unknown, "model.projector.weight") == "other");
  CHECK(role_of(unknown, "transformer.wte.weight") == "embedding");
  CHECK(role_of(unknown, "model.lm_head.weight") == "head");
  CHECK(role_of(unknown, "model.layers.0.empty.weight", {0, 8}) == "other");
  CHECK_FALSE(Architecture(Json::array()).known());
}

TEST_CASE("stacked experts are seen one by one, with their bytes in place") {
  const Json qwen = {{"model_type", "qwen3_moe"}, {"num_hidden_layers", 1}, {"num_experts", 3}};
  const std::vector<TensorInfo> tensors = {{"model.norm.weight", DType::f32, {5}},
                                           {kGateUp, DType::bf16, {3, 4, 5}},
                                           {kDown, DType::f16, {3, 5, 2}},
                                           {"model.layers.0.mlp.gate.weight", DType::f32, {3, 5}}};
  const TempFolder t;
  write_model(t.path(), tensors, qwen);
  const SafetensorsCheckpoint stored(t.path());
  const Checkpoint checkpoint = open_checkpoint(t.path());
  const TensorSource& source = *checkpoint.tensors;
  CHECK(source.tensors().size() == 2 + 3 * 3);
  CHECK(source.tensors()[2].name == "model.layers.0.mlp.experts.0.up_proj.weight");
  CHECK_FALSE(source.find(kGateUp));
  const std::vector<float> gate_up = stored.read_all_f32(kGateUp), down = stored.read_all_f32(kDown);
  for (int e = 0; e < 3; ++e) {
    const std::string expert = "model.layers.0.mlp.experts." + std::to_string(e);
    CHECK(source.read_all_f32(expert + ".gate_proj.weight") ==
          std::vector<float>(gate_up.begin() + e * 20, gate_up.begin() + e * 20 + 10));
    CHECK(source.read_all_f32(expert + ".up_proj.weight") ==
          std::vector<float>(gate_up.begin() + e * 20 + 10, gate_up.begin() + e * 20 + 20));
    CHECK(source.read_all_f32(expert + ".down_proj.weight") ==
          std::vector<float>(down.begin() + e * 10, down.begin() + e * 10 + 10));
    CHECK(source.find(expert + ".down_proj.weight")->shape == std::vector<int64_t>{5, 2});
    CHECK(source.find(expert + ".down_proj.weight")->dtype == DType::f16);
  }
  CHECK(check_contract(source) == int64_t(source.tensors().size()));
  CHECK_THROWS_WITH(source.read_all_f32(kDown), Catch::Contains("no tensor"));

  // Mixtral has other names for them, and another one for its router when it is saved fused.
  write_model(t.path(), tensors, {{"model_type", "mixtral"}, {"num_hidden_layers", 1}, {"num_local_experts", 3}});
  const Checkpoint mixtral = open_checkpoint(t.path());
  CHECK(mixtral.tensors->read_all_f32("model.layers.0.block_sparse_moe.experts.2.w3.weight") ==
        std::vector<float>(gate_up.begin() + 50, gate_up.end()));
  CHECK(mixtral.tensors->find("model.layers.0.block_sparse_moe.gate.weight"));
  CHECK(check_contract(*mixtral.tensors) == 11);

  // With quantised weights the stack stays unquantised.
  Json config = qwen;
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"config_groups", {{"g", {{"targets", {"Linear"}}, {"weights", Json::object()}}}}}};
  write_model(t.path(), tensors, config);
  const Checkpoint quantized = open_checkpoint(t.path());
  CHECK(quantized.quantization->group_for("model.layers.0.mlp.experts.1.up_proj") == nullptr);
  CHECK(quantized.quantization->group_for("model.layers.0.mlp.experts.1.other") != nullptr);
  CHECK(check_contract(*quantized.tensors) == 11);
}

TEST_CASE("stacks that contradict their names are refused") {
  const auto refused = [](const std::vector<TensorInfo>& tensors, const std::string& cause,
                          const std::string& type = "qwen3_moe") {
    const TempFolder t;
    write_model(t.path(), tensors, {{"model_type", type}, {"num_experts", 3}});
    CHECK_THROWS_AS(open_checkpoint(t.path()), FormatError);
    CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains(cause));
  };
  refused({{kGateUp, DType::bf16, {3, 3, 5}}}, "as many gate rows as up rows");
  refused({{kGateUp, DType::bf16, {2, 4, 5}}}, "does not have the 3 experts");
  refused({{kGateUp, DType::bf16, {3, 4}}}, "not a stack");
  refused({{kDown, DType::bf16, {int64_t{1} << 40, 0, 4}}}, "not a stack");
  refused({{kDown, DType::bf16, {70'000, 1, 1}}}, "more than 65536");
  refused({{kDown, DType::bf16, {3, 1, 1}}, {"model.layers.0.mlp.experts.1.down_proj.weight", DType::bf16, {1, 1}}},
          "duplicate tensor");
}

TEST_CASE("every source decodes the bytes at its extents to what it reads") {
  const fs::path golden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden";
  const TempFolder t;
  fs::copy(golden / "formats_dtypes/model.safetensors", t.path() / "model.safetensors");
  write_text(t.path() / "config.json", "{}");
  CHECK(check_contract(*open_checkpoint(t.path()).tensors) > 10);
  write_model(
      t.path(),
      {{"scalar", DType::f32, {}}, {"none", DType::bf16, {0, 3}}, {"thin", DType::bf16, {3, 0}}, {"cube", DType::f16, {3, 2, 2}}},
      Json::object());
  CHECK(check_contract(*open_checkpoint(t.path()).tensors) == 4);
  CHECK(check_contract(*open_checkpoint(golden / "gguf_file").tensors) == 11);

  // Every block type, permuted as llama's and plain as qwen2's; vectors of blocks; stacked experts.
  for (const std::string arch : {"llama", "qwen2", "glm4moe"}) {
    for (const std::string type : {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"}) {
      CAPTURE(arch, type);
      const std::string blocks = read_file(golden / "gguf_blocks" / (type + ".blocks"));
      GgufBuilder b;
      b.text("general.architecture", arch).integer(arch + ".embedding_length", 256).integer(arch + ".block_count", 1);
      b.integer(arch + ".attention.head_count", 3)
          .integer(arch + ".attention.head_count_kv", 1)
          .integer(arch + ".context_length", 16);
      b.integer(arch + ".feed_forward_length", 2).number(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
      b.integer("glm4moe.expert_count", 3)
          .integer("glm4moe.expert_used_count", 1)
          .integer("glm4moe.expert_feed_forward_length", 2);
      GgmlType id = GgmlType::f32;
      for (int i = 0; i < 64; ++i) {
        if (const auto known = ggml_layout(uint32_t(i)); known && known->name == type) id = GgmlType(i);
      }
      const auto add = [&](const std::string& name, std::vector<uint64_t> ne) {
        const GgmlLayout layout = ggml_layout(id);
        uint64_t values = 1;
        for (const uint64_t n : ne) values *= n;
        std::string data;
        while (data.size() < values / uint64_t(layout.block_values) * uint64_t(layout.block_bytes)) data += blocks;
        data.resize(values / uint64_t(layout.block_values) * uint64_t(layout.block_bytes));
        b.tensors.push_back({name, std::move(ne), uint32_t(id), std::move(data)});
      };
      add("token_embd.weight", {256, 2});
      add("blk.0.attn_q.weight", {256, 12});  // three heads of four rows
      add("blk.0.attn_k.weight", {256, 4});
      add("blk.0.attn_norm.weight", {256});
      add("blk.0.attn_q.bias", {768});
      if (arch == "glm4moe") add("blk.0.ffn_down_exps.weight", {256, 5, 3});
      const Checkpoint c = open_checkpoint(write_text(t.path() / "x.gguf", b.bytes()));
      CHECK(check_contract(*c.tensors) == int64_t(c.tensors->tensors().size()) - (ggml_layout(id).block_values > 1 ? 2 : 0));
    }
  }
}
