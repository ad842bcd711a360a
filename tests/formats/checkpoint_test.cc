#include <catch2/catch.hpp>
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <numbers>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "formats/gguf_checkpoint.h"
#include "formats/gguf_config.h"
#include "formats/inspect.h"
#include "formats/model_check.h"
#include "formats/safetensors_checkpoint.h"
#include "formats/sharded.h"
#include "tests/formats/contract.h"
#include "tests/formats/gguf_builder.h"
#include "tests/support.h"

using namespace overproof;
using namespace overproof::test;

namespace {

/// Three tensors of 8, 12 and 4 bytes in shards of at most `max_bytes`.
void write_sharded(const fs::path& path, int64_t max_bytes) {
  OutputFolder folder(path);
  ShardedWriter writer(folder,
                       {{"a", DType::f32, {2}}, {"none", DType::f32, {0}}, {"b", DType::f32, {3, 1}}, {"c", DType::bf16, {2}}},
                       {}, max_bytes);
  CHECK(writer.current()->name == "a");
  writer.append_f32(std::vector<float>{1});
  writer.append_f32(std::vector<float>{2});
  CHECK(writer.current()->name == "b");
  writer.append_f32(std::vector<float>{3, 4, 5});
  writer.append_f32(std::vector<float>{6, 7});
  CHECK(writer.current() == nullptr);
  writer.close();
}

void expect_sharded(const fs::path& path, size_t shards) {
  const SafetensorsCheckpoint c(path);
  CHECK(c.shards().size() == shards);
  CHECK(c.tensors().size() == 4);
  CHECK(c.read_all_f32("a") == std::vector<float>{1, 2});
  CHECK(c.read_all_f32("c") == std::vector<float>{6, 7});
  CHECK(c.read_all_f32("none").empty());
  std::vector<float> rows(2);
  c.read_f32("b", 1, 2, rows);
  CHECK(rows == std::vector<float>{4, 5});
  CHECK_THROWS_AS(c.read_f32("b", 2, 2, rows), FormatError);
  CHECK_THROWS_AS(c.read_f32("b", -1, 2, rows), FormatError);
  CHECK_THROWS_AS(c.read_f32("b", INT64_MAX, 2, rows), FormatError);
  CHECK_THROWS_WITH(c.read_all_f32("d"), Catch::Contains("no tensor 'd'"));
}

void check_index_refused(const std::string& index, const std::string& cause) {
  const TempFolder t;
  write_sharded(t.path(), 12);
  write_text(t.path() / kSafetensorsIndexName, index);
  CHECK_THROWS_AS(SafetensorsCheckpoint(t.path()), FormatError);
  CHECK_THROWS_WITH(SafetensorsCheckpoint(t.path()), Catch::Contains(cause));
}

}  // namespace

TEST_CASE("a checkpoint is written in shards of bounded size, and read back") {
  const TempFolder one, two, three;
  write_sharded(one.path(), 24);
  CHECK(fs::exists(one.path() / "model.safetensors"));
  CHECK_FALSE(fs::exists(one.path() / kSafetensorsIndexName));
  expect_sharded(one.path(), 1);
  write_sharded(two.path(), 20);
  CHECK(fs::exists(two.path() / "model-00002-of-00002.safetensors"));
  CHECK(read_json(two.path() / kSafetensorsIndexName)["metadata"]["total_size"] == 24);
  expect_sharded(two.path(), 2);
  write_sharded(three.path(), 1);
  expect_sharded(three.path(), 4);
}

TEST_CASE("an index that lies is refused") {
  const std::string a = "model-00001-of-00003.safetensors", b = "model-00002-of-00003.safetensors",
                    c = "model-00003-of-00003.safetensors";
  const auto index = [](const std::string& map) { return "{\"weight_map\":{" + map + "}}"; };
  const std::string good = "\"a\":\"" + a + "\",\"none\":\"" + a + "\",\"b\":\"" + b + "\",\"c\":\"" + c + "\"";
  {
    const TempFolder t;
    write_sharded(t.path(), 12);
    write_text(t.path() / kSafetensorsIndexName, index(good));
    expect_sharded(t.path(), 3);
  }
  check_index_refused(index("\"a\":\"../" + a + "\""), "leaves the folder");
  check_index_refused(index("\"a\":\"/etc/passwd\""), "leaves the folder");
  check_index_refused(index("\"a\":\"\""), "leaves the folder");
  for (const char* hidden : {".git/w.safetensors", ".github/w.safetensors", ".gitignore", "shards/.w.safetensors", ".w/a.safetensors"})
    check_index_refused(index(fmt::format("\"a\":\"{}\"", hidden)), "names a hidden file");
  check_index_refused(index("\"a\":1"), "not a file name");
  check_index_refused(index("\"a\":\"other.safetensors\""), "missing");
  check_index_refused(index("\"a\":\"./../" + a + "\""), "leaves the folder");
  check_index_refused(index(good + ",\"a\":\"" + a + "\""), "twice");
  check_index_refused("{}", "weight_map");
  check_index_refused("[]", "weight_map");
  check_index_refused("{", "JSON");
}

// What transformers 5.23 reads of such folders: tests/interop/test_model_folders.py.
TEST_CASE("an index that is wrong about the places of tensors is read as transformers reads it, with a note") {
  const std::string a = "model-00001-of-00003.safetensors", b = "model-00002-of-00003.safetensors",
                    c = "model-00003-of-00003.safetensors";
  const TempFolder t;
  write_sharded(t.path(), 12);
  const auto notes = [&](const Json& map) {
    write_text(t.path() / kSafetensorsIndexName, Json{{"weight_map", map}}.dump());
    expect_sharded(t.path(), 3);
    return SafetensorsCheckpoint(t.path()).notes();
  };
  CHECK(notes({{"a", a}, {"none", a}, {"b", b}, {"c", c}}).empty());
  const auto unlisted = notes({{"a", a}, {"b", b}, {"c", c}});
  REQUIRE(unlisted.size() == 1);
  CHECK_THAT(unlisted[0], Catch::Contains("does not list 1 tensor that its shards have, the first 'none' of '" + a + "'"));
  const auto misplaced = notes({{"a", b}, {"none", a}, {"b", b}, {"c", c}});
  REQUIRE(misplaced.size() == 1);
  CHECK_THAT(misplaced[0], Catch::Contains("'a' in '" + b + "', which is in '" + a + "'"));
  write_text(t.path() / "config.json", R"({"model_type": "llama"})");
  CHECK_THAT(check_model(open_checkpoint(t.path())).at(0), Catch::Contains("'a'"));

  const auto copy_of_a = [&](const std::vector<float>& values) {  // "a" in the third shard, too
    OutputFolder folder(t.path());
    SafetensorsWriter writer(folder, c, {{"a", DType::f32, {2}}, {"c", DType::f32, {2}}}, {});
    writer.append_f32(values);
    writer.append_f32(std::vector<float>{6, 7});
    writer.close();
  };
  for (const std::string& place : {a, c}) {
    copy_of_a({1, 2});
    const auto twice = notes({{"a", place}, {"none", a}, {"b", b}, {"c", c}});
    REQUIRE(twice.size() == 1);
    CHECK_THAT(twice[0], Catch::Contains("in two shards with the same values"));
    copy_of_a({1, 3});
    CHECK_THROWS_WITH(SafetensorsCheckpoint(t.path()), Catch::Contains("'a'") && Catch::Contains(a) && Catch::Contains(c) && Catch::Contains("with other values"));
  }
}

TEST_CASE("an index may spell a shard's name with ./, and list what no shard has") {
  const std::string a = "./model-00001-of-00003.safetensors", b = "./model-00002-of-00003.safetensors",
                    c = "model-00003-of-00003.safetensors";
  const TempFolder t;
  write_sharded(t.path(), 12);
  const auto index = [&](const std::string& more) {
    write_text(t.path() / kSafetensorsIndexName, "{\"weight_map\":{\"a\":\"" + a + "\",\"none\":\"" + a + "\",\"b\":\"" + b +
                                                      "\",\"c\":\"" + c + "\"" + more + "}}");
  };
  index("");
  expect_sharded(t.path(), 3);
  CHECK(SafetensorsCheckpoint(t.path()).absent().empty());
  index(",\"d\":\"" + c + "\"");
  expect_sharded(t.path(), 3);
  CHECK_THAT(SafetensorsCheckpoint(t.path()).absent(), Catch::Contains("lists 1 tensor that") && Catch::Contains("'d'"));
  // Whether the model needs it is known of known types only.
  write_text(t.path() / "config.json", R"({"model_type": "newest"})");
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("'d'") && Catch::Contains("is the download complete?"));
  write_text(t.path() / "config.json", R"({"model_type": "llama"})");
  CHECK_THAT(check_model(open_checkpoint(t.path())).at(0), Catch::Contains("'d'"));
}

TEST_CASE("shards in folders of their own are inspected by the index") {
  const TempFolder t;
  write_sharded(t.path() / "weights", 12);
  fs::remove(t.path() / "weights" / kSafetensorsIndexName);
  Json map;
  for (const auto& [name, shard] : std::map<std::string, int>{{"a", 1}, {"none", 1}, {"b", 2}, {"c", 3}})
    map[name] = "weights/model-0000" + std::to_string(shard) + "-of-00003.safetensors";
  write_text(t.path() / kSafetensorsIndexName, Json{{"weight_map", map}}.dump());
  CHECK(inspect(t.path()).json["tensors"] == 4);
}

TEST_CASE("where a single file and an index are both there, the single file counts, as in transformers") {
  const TempFolder t;
  write_sharded(t.path(), 12);
  OutputFolder folder(t.path());
  SafetensorsWriter writer(folder, kSafetensorsName, {{"a", DType::f32, {2}}}, {});
  writer.append_f32(std::vector<float>{8, 9});
  writer.close();
  const SafetensorsCheckpoint c(t.path());
  CHECK(c.read_all_f32("a") == std::vector<float>{8, 9});
  CHECK(c.tensors().size() == 1);
  write_text(t.path() / "config.json", R"({"model_type": "llama"})");
  CHECK_THAT(check_model(open_checkpoint(t.path())).at(0), Catch::Contains("model.safetensors.index.json"));
}

TEST_CASE("a head with values of its own counts, though config.json ties it") {
  const TempFolder t;
  const auto open = [&](const std::vector<float>& head, DType dtype) {
    fs::remove(t.path() / kSafetensorsName);
    write_text(t.path() / "config.json", R"({"model_type": "llama", "tie_word_embeddings": true})");
    OutputFolder folder(t.path());
    SafetensorsWriter writer(folder, kSafetensorsName,
                             {{"lm_head.weight", dtype, {2, 2}}, {"model.embed_tokens.weight", DType::f32, {2, 2}}}, {});
    writer.append_f32(head);
    writer.append_f32(std::vector<float>{1, 2, 3, 4});
    writer.close();
    return open_checkpoint(t.path());
  };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    CHECK((*open({1, 2, 3, 4}, dtype).config)["tie_word_embeddings"] == true);
    CHECK(check_model(open({1, 2, 3, 4}, dtype)).empty());
    CHECK((*open({1, 2, 3, 5}, dtype).config)["tie_word_embeddings"] == false);
    CHECK_THAT(check_model(open({1, 2, 3, 5}, dtype)).at(0), Catch::Contains("the head counts"));
  }
}

TEST_CASE("files of another kind than weights are named, with the remedy") {
  const auto refused = [](const std::string& file, const std::string& cause) {
    const TempFolder t;
    write_text(t.path() / "config.json", R"({"model_type": "llama"})");
    write_text(t.path() / file, "x");
    CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("has neither model.safetensors") && Catch::Contains(cause));
  };
  refused("adapter_model.safetensors", "merge it into its base model");
  refused("adapter_config.json", "merge it into its base model");
  refused("pytorch_model.bin", "save it as safetensors");
  refused("pytorch_model-00001-of-00002.bin", "save it as safetensors");
  refused("consolidated.safetensors", "'consolidated.safetensors'");
  refused("model.fp16.safetensors", "'model.fp16.safetensors'");
  refused("model-00001-of-00002.safetensors", "is the download complete?");
  refused("model.gguf", "name that file");
  for (const char* file : {"tf_model.h5", "flax_model.msgpack", "model.onnx", "weights.npz", "saved_model.pb", "model.nemo"}) refused(file, file);
  refused("llama/config.json", "'llama' in it looks like a model");
  refused("snapshots/0123abc/config.json", "'snapshots/0123abc' in it looks like a model");
  const TempFolder t;
  write_text(t.path() / "adapter_config.json", "{}");
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("has neither config.json") && Catch::Contains("LoRA adapter"));
}

TEST_CASE("config.json may have the bare words that only Python reads") {
  const TempFolder t;
  write_text(t.path() / "config.json",
             R"({"model_type": "newest", "limit": [0.0, Infinity, -Infinity, NaN], "text": "NaN \" Infinity"})");
  OutputFolder folder(t.path());
  SafetensorsWriter writer(folder, kSafetensorsName, {{"a", DType::f32, {1}}}, {});
  writer.append_f32(std::vector<float>{1});
  writer.close();
  const Checkpoint c = open_checkpoint(t.path());
  CHECK((*c.config)["limit"] == Json{0.0, {{"__float__", "Infinity"}}, {{"__float__", "-Infinity"}}, {{"__float__", "NaN"}}});
  CHECK((*c.config)["text"] == "NaN \" Infinity");
}

namespace {

GgufBuilder llama(const std::string& arch = "llama") {
  GgufBuilder b;
  b.text("general.architecture", arch).integer(arch + ".embedding_length", 4).integer(arch + ".block_count", 1);
  b.integer(arch + ".feed_forward_length", 2).integer(arch + ".attention.head_count", 1).integer(arch + ".context_length", 16);
  b.number(arch + ".attention.layer_norm_rms_epsilon", 1e-5f).integer("tokenizer.ggml.eos_token_id", 2);
  b.f32("token_embd.weight", {4, 2}, {0, 1, 2, 3, 4, 5, 6, 7});
  return b;
}

}  // namespace

TEST_CASE("llama.cpp's order of query rows is undone for llama and left alone for qwen2") {
  const TempFolder t;
  const std::vector<float> q = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  for (const std::string arch : {"llama", "qwen2"}) {
    GgufBuilder b = llama(arch);
    b.f32("blk.0.attn_q.weight", {4, 4}, q).f32("blk.0.attn_q.bias", {4}, {0, 1, 2, 3});
    const Checkpoint c = open_checkpoint(write_text(t.path() / "x.gguf", b.bytes()));
    const auto rows = c.tensors->read_all_f32("model.layers.0.self_attn.q_proj.weight");
    const auto bias = c.tensors->read_all_f32("model.layers.0.self_attn.q_proj.bias");
    // The converter wrote reshape(2 halves, 2).swapaxes: stored rows are h0 j0, h1 j0, h0 j1, h1 j1.
    const std::vector<float> expected = arch == "llama" ? std::vector<float>{0, 2, 1, 3} : std::vector<float>{0, 1, 2, 3};
    CHECK(bias == expected);
    for (size_t i = 0; i < 4; ++i) CHECK(rows[4 * i] == expected[i]);
    std::vector<float> one(4);
    c.tensors->read_f32("model.layers.0.self_attn.q_proj.weight", 1, 1, one);
    CHECK(one[0] == expected[1]);
    CHECK((*c.config)["model_type"] == arch);
    CHECK((*c.config)["tie_word_embeddings"] == true);
    CHECK((*c.config)["vocab_size"] == 2);
    CHECK((*c.config)["eos_token_id"] == 2);
  }
}

TEST_CASE("a GGUF file by the gguf package reads as the model it was made from") {
  const fs::path golden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/gguf_file";
  const Checkpoint c = open_checkpoint(golden);
  CHECK(c.tensors->tensors().size() == 11);
  for (const std::string name : {"q_proj", "k_proj"}) {
    const std::string bytes = read_file(golden / (name + ".f32"));
    std::vector<float> expected(bytes.size() / 4);
    std::memcpy(expected.data(), bytes.data(), bytes.size());
    CHECK(c.tensors->read_all_f32("model.layers.0.self_attn." + name + ".weight") == expected);
  }
  CHECK(c.tensors->find("model.layers.0.mlp.down_proj.weight")->shape == std::vector<int64_t>{32, 64});
  CHECK((*c.config)["num_key_value_heads"] == 2);
  CHECK((*c.config)["head_dim"] == 8);

  CHECK_THAT(inspect(golden).text, Catch::Contains("token_embd.weight  [8, 32]") && Catch::Contains("general.name = \"tiny\"") &&
                                       Catch::Contains("11 tensors"));
  const Json report = inspect(golden / "tiny.gguf").json;
  CHECK(report["files"][0]["tensors"].size() == 11);
  CHECK(report["files"][0]["metadata"]["llama.vocab_size"] == 8);
}

TEST_CASE("tensors have the names that the gguf package gives them") {
  const TempFolder t;
  const Json names = read_json(fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/gguf_names/names.json");
  REQUIRE(names.size() == 9);
  for (const auto& [model, table] : names.items()) {
    const ModelKind* family = find_model_kind(model);
    REQUIRE(family);
    GgufBuilder b = llama(std::string(family->arch));
    b.integer(std::string(family->arch) + ".expert_count", family->has_experts() ? 2 : 0);
    b.tensors.clear();
    for (const auto& [gguf, hf] : table.items()) {
      const bool stacked = gguf.find("_exps.") != std::string::npos,
                 latent = gguf.ends_with("attn_k_b.weight") || gguf.ends_with("attn_v_b.weight");
      const std::vector<uint64_t> ne = stacked  ? std::vector<uint64_t>{1, 2, 2}
                                       : latent ? std::vector<uint64_t>{2, 2, 1}
                                                : std::vector<uint64_t>{1, 4};
      b.f32(gguf, ne, {1, 2, 3, 4});
    }
    const GgufCheckpoint c(write_text(t.path() / "x.gguf", b.bytes()));
    for (const auto& [gguf, hf] : table.items()) {
      CAPTURE(model, gguf, hf);
      CHECK(c.find(hf.get<std::string>()));
    }
  }
}

TEST_CASE("stacked experts of glm4moe appear one by one") {
  const TempFolder t;
  GgufBuilder b = llama("glm4moe");
  b.integer("glm4moe.expert_count", 2).integer("glm4moe.expert_used_count", 1).integer("glm4moe.expert_shared_count", 1);
  b.integer("glm4moe.expert_feed_forward_length", 2)
      .number("glm4moe.expert_weights_scale", 2)
      .integer("glm4moe.expert_gating_func", 2);
  b.f32("blk.0.ffn_gate_exps.weight", {4, 1, 2}, {1, 2, 3, 4, 5, 6, 7, 8}).f32("blk.0.exp_probs_b.bias", {2}, {1, 2});
  b.f32("blk.0.post_attention_norm.weight", {4}, {1, 1, 1, 1}).f32("output.weight", {4, 2}, std::vector<float>(8));
  const Checkpoint c = open_checkpoint(write_text(t.path() / "x.gguf", b.bytes()));
  CHECK(c.tensors->read_all_f32("model.layers.0.mlp.experts.1.gate_proj.weight") == std::vector<float>{5, 6, 7, 8});
  CHECK(c.tensors->find("model.layers.0.mlp.experts.0.gate_proj.weight")->shape == std::vector<int64_t>{1, 4});
  CHECK(c.tensors->read_all_f32("model.layers.0.mlp.gate.e_score_correction_bias") == std::vector<float>{1, 2});
  CHECK(c.tensors->find("model.layers.0.post_attention_layernorm.weight"));
  CHECK((*c.config)["model_type"] == "glm4_moe");
  CHECK((*c.config)["routed_scaling_factor"] == 2.0);
  CHECK((*c.config)["tie_word_embeddings"] == false);
}

TEST_CASE("Llama 3's RoPE factors are recognised, others refused") {
  const TempFolder t;
  constexpr int kHead = 64;
  std::vector<float> factors;
  for (int i = 0; i < kHead / 2; ++i) {  // as llama.cpp's converter makes them for Llama 3.2 1B
    const double wavelength = 2 * std::numbers::pi * std::pow(500000.0, 2.0 * i / kHead);
    const double smooth = (8192 / wavelength - 1) / 3;
    factors.push_back(float(wavelength < 2048 ? 1 : wavelength > 8192 ? 32 : 1 / ((1 - smooth) / 32 + smooth)));
  }
  GgufBuilder b = llama();
  b.integer("llama.attention.key_length", kHead).integer("llama.attention.value_length", kHead);
  b.integer("llama.rope.dimension_count", kHead).number("llama.rope.freq_base", 500000);
  b.f32("rope_freqs.weight", {kHead / 2}, factors);
  const Checkpoint c = open_checkpoint(write_text(t.path() / "x.gguf", b.bytes()));
  CHECK((*c.config)["rope_scaling"] == Json{{"rope_type", "llama3"},
                                            {"factor", 32.0},
                                            {"low_freq_factor", 1.0},
                                            {"high_freq_factor", 4.0},
                                            {"original_max_position_embeddings", 8192}});
  CHECK((*c.config)["rope_parameters"]["rope_theta"] == 500000.0);
  CHECK_FALSE(c.tensors->find("rope_freqs.weight"));
  GgufBuilder other = b;  // as this program writes other parameters
  other.number("llama.rope.scaling.low_freq_factor", 2).number("llama.rope.scaling.high_freq_factor", 8);
  other.tensors.pop_back();
  other.f32("rope_freqs.weight", {kHead / 2}, llama3_rope_factors(kHead, 500000, 32, 2, 8, 8192));
  CHECK((*open_checkpoint(write_text(t.path() / "x.gguf", other.bytes())).config)["rope_scaling"]["high_freq_factor"] == 8.0);
  factors[kHead / 4] *= 1.01f;
  b.tensors.pop_back();
  b.f32("rope_freqs.weight", {kHead / 2}, factors);
  CHECK_THROWS_WITH(open_checkpoint(write_text(t.path() / "x.gguf", b.bytes())), Catch::Contains("not Llama 3's scaling"));
}

TEST_CASE("an unsupported GGUF model is refused with the cause") {
  const TempFolder t;
  const auto refused = [&](GgufBuilder b, const std::string& cause) {
    CHECK_THROWS_AS(open_checkpoint(write_text(t.path() / "x.gguf", b.bytes())), FormatError);
    CHECK_THROWS_WITH(open_checkpoint(write_text(t.path() / "x.gguf", b.bytes())), Catch::Contains(cause));
  };
  refused(llama("gemma3"), "'gemma3' is not supported");
  refused(GgufBuilder(), "general.architecture");
  refused(llama().f32("blk.0.nextn.weight", {1}, {1}), "no name in a Hugging Face checkpoint");
  refused(llama().f32("blk.x.attn_q.weight", {1}, {1}), "no layer number");
  refused(llama().f32("blk..attn_q.weight", {1}, {1}), "no layer number");
  refused(llama().f32("blk.0.attn_q.weight", {1, 3}, {1, 2, 3}), "even width");
  refused(llama().f32("blk.0.ffn_norm.weight", {1}, {1}).f32("blk.0.post_attention_norm.weight", {1}, {1}), "no name");
  refused(llama().f32("blk.0.ffn_gate_exps.weight", {1, 1, 1}, {1}), "'llama' without experts is not");
  refused(llama("glm4moe").f32("blk.0.ffn_gate_exps.weight", {1, 1}, {1}), "three dimensions");
  refused(llama("glm4moe").integer("glm4moe.expert_count", 1).f32("blk.0.ffn_gate_exps.weight", {1, 1, 2}, {1, 2}),
          "more experts");
  refused(llama("glm4moe").integer("glm4moe.nextn_predict_layers", 1), "predict further tokens");
  refused(llama("qwen2").integer("qwen2.nextn_predict_layers", 1), "predict further tokens");
  refused(llama().text("llama.rope.scaling.type", "longrope"), "'longrope' is not supported");
  refused(llama("granitemoe").integer("granitemoe.expert_count", 1).f32("blk.0.ffn_up_exps.weight", {1, 1, 1}, {1}),
          "no counterpart");
  refused(llama("deepseek2").f32("blk.0.attn_k_b.weight", {1, 1, 1}, {1}), "no counterpart");
  refused(llama().integer("llama.rope.dimension_count", 2), "part of the head");
  refused(llama().boolean("llama.attention.causal", false), "'llama.attention.causal' is false");
}

TEST_CASE("opening a missing path or another kind of file is an error") {
  const TempFolder t;
  CHECK_THROWS_AS(open_checkpoint(t.path() / "none"), IoError);
  CHECK_THROWS_AS(open_checkpoint(t.path()), IoError);
  CHECK_THROWS_AS(inspect(t.path()), IoError);
  CHECK_THROWS_AS(inspect(t.path() / "none"), IoError);
  CHECK_THROWS_AS(open_checkpoint(write_text(t.path() / "x.bin", "x")), FormatError);
  const std::string bytes = llama().bytes();
  write_text(t.path() / "a.gguf", bytes);
  CHECK(open_checkpoint(t.path()).tensors->tensors().size() == 1);
  write_text(t.path() / "b.gguf", bytes);
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("2 .gguf files"));
  write_text(t.path() / "config.json", "{}");
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("model.safetensors"));
}

TEST_CASE("all parts of a split GGUF are read, and a part that is missing is named") {
  const TempFolder t;
  const auto part = [&](int number, int count) {
    GgufBuilder b = number == 0 ? llama() : GgufBuilder();
    if (number > 0) b.f32("blk." + std::to_string(number - 1) + ".attn_norm.weight", {4}, {float(number), 2, 3, 4});
    b.integer("split.no", uint32_t(number)).integer("split.count", uint32_t(count)).integer("split.tensors.count", uint32_t(count));
    return write_text(t.path() / fmt::format("m-{:05}-of-{:05}.gguf", number + 1, count), b.bytes());
  };
  for (int i = 0; i < 3; ++i) part(i, 3);
  const Checkpoint c = open_checkpoint(t.path());
  CHECK(c.tensors->tensors().size() == 3);
  CHECK(c.tensors->files().size() == 3);
  CHECK(c.tensors->read_all_f32("model.layers.1.input_layernorm.weight") == std::vector<float>{2, 2, 3, 4});
  check_contract(*c.tensors);
  for (int i = 0; i < 3; ++i)
    CHECK_THROWS_WITH(open_checkpoint(t.path() / fmt::format("m-{:05}-of-00003.gguf", i + 1)),
                      Catch::Contains("one of 3 parts") && Catch::Contains("folder"));
  const TempFolder other;
  fs::rename(t.path() / "m-00002-of-00003.gguf", other / "x");
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("'m-00002-of-00003.gguf' is not there"));
  fs::copy(t.path() / "m-00003-of-00003.gguf", t.path() / "m-00002-of-00003.gguf");
  CHECK_THROWS_WITH(open_checkpoint(t.path()), Catch::Contains("is not part 2 of 3"));
  fs::rename(other / "x", t.path() / "m-00002-of-00003.gguf");
  fs::rename(t.path() / "m-00001-of-00003.gguf", t.path() / "first.gguf");
  CHECK_THROWS_WITH(open_checkpoint(t.path() / "first.gguf"), Catch::Contains("is part 1 of 3"));
}
