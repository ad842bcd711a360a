#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/json.h"
#include "formats/gguf_checkpoint.h"
#include "formats/gguf_names.h"
#include "formats/gguf_parts.h"
#include "formats/safetensors.h"
#include "formats/sharded.h"
#include "tests/formats/gguf_builder.h"
#include "tests/support.h"

using namespace overproof;
using namespace overproof::test;

namespace {

/// A tiny model of one layer whose every value names its place: 1000 x tensor number + index.
struct TinyModel {
  explicit TinyModel(Json config_changes = Json::object(), std::vector<TensorInfo> changes = {},
                     std::vector<std::string> left_out = {}) {
    config = {{"model_type", "llama"},         {"hidden_size", 32},    {"num_hidden_layers", 1},  {"num_attention_heads", 2},
              {"num_key_value_heads", 1},      {"head_dim", 8},        {"intermediate_size", 40}, {"rms_norm_eps", 1e-5},
              {"max_position_embeddings", 64}, {"rope_theta", 10000.0}};
    const std::string layer = "model.layers.0.";
    std::vector<TensorInfo> all = {{"model.embed_tokens.weight", DType::f32, {5, 32}},
                                   {"model.norm.weight", DType::f32, {32}},
                                   {"lm_head.weight", DType::f32, {5, 32}},
                                   {layer + "input_layernorm.weight", DType::f32, {32}},
                                   {layer + "post_attention_layernorm.weight", DType::f32, {32}},
                                   {layer + "self_attn.q_proj.weight", DType::f32, {16, 32}},
                                   {layer + "self_attn.k_proj.weight", DType::f32, {8, 32}},
                                   {layer + "self_attn.v_proj.weight", DType::f32, {8, 32}},
                                   {layer + "self_attn.o_proj.weight", DType::f32, {32, 16}},
                                   {layer + "mlp.gate_proj.weight", DType::f32, {40, 32}},
                                   {layer + "mlp.up_proj.weight", DType::f32, {40, 32}},
                                   {layer + "mlp.down_proj.weight", DType::f32, {32, 40}}};
    config.update(config_changes);
    for (const TensorInfo& change : changes) {
      std::erase_if(all, [&](const TensorInfo& t) { return t.name == change.name; });
      all.push_back(change);
    }
    for (const std::string& name : left_out) std::erase_if(all, [&](const TensorInfo& t) { return t.name == name; });
    OutputFolder folder(temp.path());
    ShardedWriter writer(folder, all);
    for (size_t i = 0; i < all.size(); ++i) {
      std::vector<float> values(size_t(all[i].elements()));
      std::iota(values.begin(), values.end(), 1000.0f * float(i));
      writer.append_f32(values);
    }
    writer.close();
    write_text(temp.path() / "config.json", config.dump());
  }
  Checkpoint open() const { return open_checkpoint(temp.path()); }
  GgufPlan plan(GgmlType type = GgmlType::f32) const {
    return plan_gguf(open(), [&](const std::string&, const GgufTensorInfo&) { return type; });
  }
  TempFolder temp;
  Json config;
};

std::vector<float> values_of(const GgufFile& file, const std::string& name) {
  const GgufTensor* t = file.find(name);
  REQUIRE(t);
  std::vector<float> out(size_t(t->elements()));
  ggml_to_f32(t->type, t->data.data(), out);
  return out;
}

const GgufOutput& output(const GgufPlan& plan, const std::string& name) {
  const auto it =
      std::find_if(plan.outputs.begin(), plan.outputs.end(), [&](const GgufOutput& o) { return o.info.name == name; });
  REQUIRE(it != plan.outputs.end());
  return *it;
}

}  // namespace

TEST_CASE("what the GGUF writer writes is read back, and refused when it is cut") {
  const TempFolder t;
  GgufMetadata keys;
  keys.add_text("general.architecture", "llama");
  keys.add_u32("u32", 4294967295);
  keys.add_f32("f32", 0.1);
  keys.add_bool("bool", true);
  keys.add_texts("texts", {"a", "", "h\xc3\xa9"});
  keys.add_f32s("f32s", {1.5f, -2});
  keys.add_i32s("i32s", {-1, 7});
  CHECK_THROWS_WITH(keys.add_u32("large", 4294967296), Catch::Contains("'large' would be 4294967296") && Catch::Contains("32 bits"));
  CHECK(keys.count() == 7);
  const std::vector<GgufTensorInfo> tensors = {
      {"a", GgmlType::f32, {2, 3}}, {"b", GgmlType::q8_0, {3, 32}}, {"c", GgmlType::f16, {5}}};
  std::vector<uint8_t> data(24 + 3 * 34 + 10);
  std::iota(data.begin(), data.end(), uint8_t(1));
  fs::path first;
  for (const size_t piece : {size_t(1), size_t(7), data.size()}) {
    OutputFolder folder(t.path() / std::to_string(piece));
    fs::create_directories(folder.path());
    GgufWriter writer(folder, "x.gguf", keys, tensors);
    CHECK(writer.current()->name == "a");
    for (size_t at = 0; at < data.size(); at += piece) writer.append(data.data() + at, std::min(piece, data.size() - at));
    CHECK(writer.current() == nullptr);
    writer.close();
    const std::string bytes = read_file(folder.path() / "x.gguf");
    CHECK(folder.records().at(0).digest == sha256(bytes));
    if (first.empty()) first = folder.path() / "x.gguf";
    CHECK(bytes == read_file(first));
  }
  const GgufFile file(first);
  CHECK(file.version() == 3);
  CHECK(file.integer("u32") == 4294967295);
  CHECK(file.number("f32") == 0.1f);
  CHECK(file.boolean("bool"));
  CHECK(file.texts("texts") == std::vector<std::string>{"a", "", "h\xc3\xa9"});
  CHECK(file.numbers("f32s") == std::vector<double>{1.5, -2});
  CHECK(file.integers("i32s") == std::vector<int64_t>{-1, 7});
  CHECK(file.find("b")->type == GgmlType::q8_0);
  CHECK(file.find("b")->shape == std::vector<int64_t>{3, 32});
  CHECK(std::memcmp(file.find("b")->data.data(), data.data() + 24, 102) == 0);
  CHECK(std::memcmp(file.find("c")->data.data(), data.data() + 126, 10) == 0);

  // Copied key by key it is the same file.
  GgufMetadata copied;
  for (const auto& [key, value] : file.metadata()) copied.add_copy(key, value);
  CHECK(copied.bytes() == keys.bytes());

  const std::string whole = read_file(first);
  REQUIRE(whole.size() % 32 == 0);
  const size_t unpadded = whole.size() - 22;  // of c; without padding behind the last tensor nothing is lost
  for (size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    if (n == unpadded) CHECK_NOTHROW(GgufFile(write_text(t.path() / "cut", whole.substr(0, n))));
    else CHECK_THROWS_AS(GgufFile(write_text(t.path() / "cut", whole.substr(0, n))), FormatError);
  }
}

TEST_CASE("an abandoned GGUF leaves no file") {
  const TempFolder t;
  OutputFolder folder(t.path());
  { GgufWriter writer(folder, "x.gguf", {}, {{"a", GgmlType::f32, {2}}}); }
  CHECK(fs::is_empty(t.path()));
  GgufWriter writer(folder, "x.gguf", {}, {{"a", GgmlType::f32, {2}}});
  CHECK_THROWS_AS(writer.close(), std::logic_error);
}

TEST_CASE("rows of q and k are interleaved and come back") {
  const TinyModel model;
  const GgufPlan plan = model.plan();
  CHECK(output(plan, "blk.0.attn_q.weight").parts[0].half_head == 4);
  CHECK(output(plan, "blk.0.attn_v.weight").parts[0].half_head == 0);
  const TempFolder t;
  OutputFolder folder(t.path());
  const Checkpoint checkpoint = model.open();
  const GgufParts parts(*checkpoint.tensors, plan);
  GgufWriter writer(folder, "x.gguf", plan.metadata, plan.infos());
  for (const TensorInfo& part : parts.tensors()) {
    const std::vector<float> values = parts.read_all_f32(part.name);
    writer.append(values.data(), values.size() * sizeof(float));
  }
  writer.close();
  const GgufFile file(t.path() / "x.gguf");
  const std::vector<float> q = values_of(file, "blk.0.attn_q.weight");
  const float first = model.open().tensors->read_all_f32("model.layers.0.self_attn.q_proj.weight")[0];
  const int order[16] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
  for (size_t r = 0; r < 16; ++r) CHECK(q[r * 32] == first + float(order[r] * 32));
  for (int64_t r = 0; r < 64; ++r) CHECK(row_of_interleaved(interleaved_row(r, 4), 4) == r);
  const GgufCheckpoint back(t.path() / "x.gguf");
  const Checkpoint original = model.open();
  for (const TensorInfo& info : original.tensors->tensors()) {
    CAPTURE(info.name);
    CHECK(back.read_all_f32(info.name) == original.tensors->read_all_f32(info.name));
  }
}

TEST_CASE("matrices are written as asked for where they can be, vectors as F32") {
  const TinyModel model;
  std::vector<std::string> asked;
  const Checkpoint checkpoint = model.open();
  const GgufPlan plan = plan_gguf(checkpoint, [&](const std::string& source, const GgufTensorInfo&) {
    asked.push_back(source);
    return GgmlType::q8_0;
  });
  CHECK(output(plan, "blk.0.attn_q.weight").info.type == GgmlType::q8_0);
  CHECK(output(plan, "blk.0.ffn_down.weight").info.type == GgmlType::f16);     // rows of 40
  CHECK(output(plan, "blk.0.attn_output.weight").info.type == GgmlType::f16);  // rows of 16
  CHECK(output(plan, "output_norm.weight").info.type == GgmlType::f32);
  CHECK(std::count(asked.begin(), asked.end(), "model.norm.weight") == 0);
  CHECK(asked.size() == 9);
}

TEST_CASE("a model and a config.json that do not agree are refused") {
  const auto refused = [](const TinyModel& model, const std::string& cause) {
    CAPTURE(cause);
    CHECK_THROWS_AS(model.plan(), FormatError);
    CHECK_THROWS_WITH(model.plan(), Catch::Contains(cause));
  };
  refused(TinyModel(Json{{"num_hidden_layers", 2}}), "has no tensor 'model.layers.1.input_layernorm.weight'");
  refused(TinyModel(Json{{"num_hidden_layers", -1}}), "'num_hidden_layers' is -1");
  refused(TinyModel(Json{{"num_hidden_layers", 0}}), "'num_hidden_layers' is 0");
  refused(TinyModel(Json{{"num_hidden_layers", "1"}}), "'num_hidden_layers' is not a whole number");
  refused(TinyModel(Json{{"hidden_size", 16}}), "'model.embed_tokens.weight' has shape [5, 32]");
  refused(TinyModel(Json{{"num_attention_heads", 4}}), "has 16 rows; its config.json requires 32");
  refused(TinyModel(Json{{"num_attention_heads", 3}, {"num_key_value_heads", 2}}), "do not make an attention");
  refused(TinyModel(Json{{"rms_norm_eps", nullptr}}), "'rms_norm_eps' is missing");
  refused(TinyModel(Json{{"is_causal", false}}), "'is_causal' is not true");
  refused(TinyModel(Json{{"hidden_act", 3}}), "'hidden_act' is not a string");
  refused(TinyModel(Json{{"rope_scaling", {{"rope_type", "linear"}}}}), "'rope_scaling.factor' is missing");
  refused(TinyModel(Json{{"rope_scaling", 3}}), "is not a JSON object");
  refused(TinyModel(Json::object(), {}, {"lm_head.weight"}), "has no tensor 'lm_head.weight'");
  refused(TinyModel(Json::object(), {{"model.layers.0.mlp.up_proj.weight", DType::f32, {2, 20, 32}}}),
          "neither a vector nor a matrix");
  CHECK_THROWS_WITH(TinyModel(Json{{"model_type", "bert"}}).plan(), Catch::Contains("'bert' cannot be written as GGUF"));
  CHECK_THROWS_WITH(TinyModel(Json{{"model_type", 3}}).plan(), Catch::Contains("model_type"));
  CHECK_THROWS_WITH(TinyModel(Json::object(), {{"model.layers.0.odd", DType::f32, {1}}}).plan(),
                    Catch::Contains("no place for tensor 'model.layers.0.odd'"));
  CHECK_THROWS_WITH(TinyModel(Json::object(), {{"model.layers.1.mlp.up_proj.weight", DType::f32, {40, 32}}}).plan(),
                    Catch::Contains("no place for tensor"));
}

TEST_CASE("a tied head is left out, and so is what follows from the configuration") {
  const TinyModel tied(Json{{"tie_word_embeddings", true}}, {{"model.layers.0.self_attn.rotary_emb.inv_freq", DType::f32, {4}}});
  const auto heads = [&] { return std::ranges::count(tied.plan().infos(), std::string("output.weight"), &GgufTensorInfo::name); };
  // A head with values of its own is one, whatever config.json states.
  CHECK(tied.plan().skipped == std::vector<std::string>{"model.layers.0.self_attn.rotary_emb.inv_freq"});
  CHECK(heads() == 1);
  const fs::path file = tied.temp.path() / "model.safetensors";
  std::string bytes = read_file(file);
  {
    const SafetensorsFile stored(file);
    const auto embedding = stored.bytes("model.embed_tokens.weight");
    std::memcpy(bytes.data() + stored.offset("lm_head.weight"), embedding.data(), embedding.size());
  }
  write_text(file, bytes);
  CHECK(tied.plan().skipped == std::vector<std::string>{"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"});
  CHECK(heads() == 0);
}

TEST_CASE("biases that config.json switches off stay out of the file") {
  const std::string name = "model.layers.0.self_attn.q_proj.bias";
  const std::vector<TensorInfo> bias = {{name, DType::f32, {16}}};
  const auto skips = [&](const Json& config) {
    const GgufPlan plan = TinyModel(config, bias).plan();
    return std::ranges::count(plan.skipped, name) == 1 &&
           !std::ranges::count(plan.infos(), std::string("blk.0.attn_q.bias"), &GgufTensorInfo::name);
  };
  CHECK(skips(Json::object()));
  CHECK(skips({{"attention_bias", false}}));
  CHECK_FALSE(skips({{"attention_bias", true}}));
  CHECK(skips({{"model_type", "mistral"}, {"attention_bias", true}, {"sliding_window", nullptr}}));
}

TEST_CASE("experts of two spellings make the same stacks") {
  const std::string experts = "model.layers.0.mlp.experts.", layer = "model.layers.0.mlp.";
  const std::vector<std::string> dense = {layer + "gate_proj.weight", layer + "up_proj.weight", layer + "down_proj.weight"};
  const Json config = {{"model_type", "qwen3_moe"},
                       {"num_experts", 2},
                       {"num_experts_per_tok", 1},
                       {"moe_intermediate_size", 4},
                       {"norm_topk_prob", true}};
  std::vector<TensorInfo> common = {{"model.layers.0.self_attn.q_norm.weight", DType::f32, {8}},
                                    {"model.layers.0.self_attn.k_norm.weight", DType::f32, {8}},
                                    {layer + "gate.weight", DType::f32, {2, 32}}};
  std::vector<TensorInfo> fused = common;
  fused.push_back({layer + "experts.gate_up_proj", DType::f32, {2, 8, 32}});
  fused.push_back({layer + "experts.down_proj", DType::f32, {2, 32, 4}});
  const TinyModel one(config, fused, dense);
  const GgufPlan plan = one.plan(GgmlType::q8_0);
  const GgufOutput& up = output(plan, "blk.0.ffn_up_exps.weight");
  CHECK(up.info.shape == std::vector<int64_t>{2, 4, 32});
  REQUIRE(up.parts.size() == 2);
  CHECK(up.parts[1].source == experts + "1.up_proj.weight");  // a checkpoint shows fused experts one by one
  CHECK(up.parts[1].rows == 4);
  CHECK(output(plan, "blk.0.ffn_gate_inp.weight").info.type == GgmlType::f32);
  CHECK(output(plan, "blk.0.ffn_down_exps.weight").info.type == GgmlType::f16);
  const Checkpoint checkpoint = one.open();
  const GgufPartReader reader(*checkpoint.tensors, up.parts[1]);
  std::vector<float> rows(64), whole(2 * 8 * 32);
  reader.read(2, 2, rows);
  const fs::path stored = fs::is_directory(checkpoint.path) ? checkpoint.path / "model.safetensors" : checkpoint.path;
  elements_to_f32(DType::f32, SafetensorsFile(stored).bytes(layer + "experts.gate_up_proj").data(), whole);
  CHECK(rows[0] == whole[14 * 32]);  // expert 1: after 8 rows of expert 0 and 4 of its own gate, the third of up

  std::vector<TensorInfo> wrong = common;
  for (int e = 0; e < 2; ++e) {
    for (const char* p : {"gate", "up"})
      wrong.push_back({experts + std::to_string(e) + "." + p + "_proj.weight", DType::f32, {e == 0 ? 4 : 5, 32}});
    wrong.push_back({experts + std::to_string(e) + ".down_proj.weight", DType::f32, {32, 4}});
  }
  CHECK_THROWS_WITH(TinyModel(config, wrong, dense).plan(), Catch::Contains("experts.1.gate_proj.weight' has shape [5, 32]"));
  fused.back().shape = {3, 32, 4};
  CHECK_THROWS_WITH(TinyModel(config, fused, dense).plan(), Catch::Contains("does not have the 2 experts"));
}
