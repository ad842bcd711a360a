#include "formats/model_check.h"

#include <catch2/catch.hpp>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "formats/finite_values.h"
#include "formats/rope_config.h"
#include "formats/safetensors.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

/// Two layers of a llama: 12 tokens, hidden 8, 4 heads of width 2 on 2 key heads, FFN 6.
Json llama_config() {
  return {{"model_type", "llama"},       {"vocab_size", 12},         {"hidden_size", 8}, {"intermediate_size", 6},
          {"num_hidden_layers", 2},      {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"tie_word_embeddings", false}};
}

Shapes llama_shapes() {
  Shapes s = {{"model.embed_tokens.weight", {12, 8}}, {"model.norm.weight", {8}}, {"lm_head.weight", {12, 8}}};
  for (const std::string at : {"model.layers.0.", "model.layers.1."}) {
    s[at + "input_layernorm.weight"] = s[at + "post_attention_layernorm.weight"] = {8};
    s[at + "self_attn.q_proj.weight"] = s[at + "self_attn.o_proj.weight"] = {8, 8};
    s[at + "self_attn.k_proj.weight"] = s[at + "self_attn.v_proj.weight"] = {4, 8};
    s[at + "mlp.gate_proj.weight"] = s[at + "mlp.up_proj.weight"] = {6, 8};
    s[at + "mlp.down_proj.weight"] = {8, 6};
  }
  return s;
}

Shapes renamed(const Shapes& shapes, const std::function<std::string(std::string)>& name) {
  Shapes out;
  for (const auto& [n, shape] : shapes) out[name(n)] = shape;
  return out;
}

using Types = std::map<std::string, DType>;

/// All tensors are zero and `dtype`, but those in `types`.
fs::path write_model(const fs::path& folder, const Json& config, const Shapes& shapes, const Types& types = {}, DType dtype = DType::f32) {
  write_text(folder / "config.json", config.dump());
  OutputFolder out(folder);
  std::vector<TensorInfo> infos;
  for (const auto& [name, shape] : shapes) infos.push_back({name, types.contains(name) ? types.at(name) : dtype, shape});
  SafetensorsWriter writer(out, "model.safetensors", infos, {});
  for (const TensorInfo& info : infos) {
    const std::vector<uint8_t> bytes(size_t(info.bytes()));
    writer.append(bytes.data(), bytes.size());
  }
  writer.close();
  return folder;
}

std::vector<std::string> check(const Json& config, const Shapes& shapes) {
  const TempFolder t;
  return check_model(open_checkpoint(write_model(t.path(), config, shapes)));
}

template <class Matcher>
void refused(const Json& config, const Shapes& shapes, const Matcher& cause) {
  CHECK_THROWS_AS(check(config, shapes), FormatError);
  CHECK_THROWS_WITH(check(config, shapes), cause);
}

}  // namespace

TEST_CASE("a whole model passes, and one that lacks something is refused with what it lacks") {
  const Shapes whole = llama_shapes();
  CHECK(check(llama_config(), whole).empty());
  Shapes s = whole;
  s.erase("model.layers.1.mlp.up_proj.weight");
  refused(llama_config(), s, Contains("'model.layers.1.mlp.up_proj.weight'"));
  for (const auto& [name, shape] : whole) {
    CAPTURE(name);
    s = whole;
    s.erase(name);
    refused(llama_config(), s, Contains(name));
  }
  s = whole;
  std::erase_if(s, [](const auto& t) { return t.first.starts_with("model.layers.1."); });
  refused(llama_config(), s, Contains("lacks 9 tensors"));
  Json more = llama_config();
  more["num_hidden_layers"] = 3;
  refused(more, whole, Contains("lacks 9 tensors") && Contains("model.layers.2.input_layernorm.weight"));
  for (const auto& [key, value] : std::map<std::string, int64_t>{{"hidden_size", 16},
                                                                 {"vocab_size", 13},
                                                                 {"intermediate_size", 7},
                                                                 {"num_key_value_heads", 4},
                                                                 {"head_dim", 4}}) {
    CAPTURE(key);
    Json other = llama_config();
    other[key] = value;
    refused(other, whole, Contains("its config.json requires"));
  }
  // A head is needed unless it is tied.
  s = whole;
  s.erase("lm_head.weight");
  refused(llama_config(), s, Contains("lm_head.weight") && Contains("tie_word_embeddings"));
  // Nor does a classifier have one.
  Json classifier = llama_config();
  classifier["architectures"] = {"LlamaForSequenceClassification"};
  s["score.weight"] = {2, 8};
  CHECK(check(classifier, s).empty());
  s.erase("score.weight");
  Json tied = llama_config();
  tied["tie_word_embeddings"] = true;
  CHECK(check(tied, s).empty());
}

TEST_CASE("a file without tensors is no model") {
  refused({{"model_type", "newest"}}, {}, Contains("has no tensors"));
}

TEST_CASE("a model of other names is refused with the name that is there") {
  const Shapes whole = llama_shapes();
  const auto with = [&](const std::string& prefix) { return renamed(whole, [&](const std::string& n) { return prefix + n; }); };
  refused(llama_config(), with("_orig_mod."), Contains("'_orig_mod.'"));
  refused(llama_config(), with("base_model.model."), Contains("'base_model.model.'"));
  refused(llama_config(), with("language_model."), Contains("'language_model.'"));
  Shapes bare = renamed(whole, [](const std::string& n) { return n.starts_with("model.") ? n.substr(6) : n; });
  bare.erase("lm_head.weight");
  refused(llama_config(), bare, Contains("'embed_tokens.weight'") && Contains("AutoModelForCausalLM"));
  refused(llama_config(), renamed(whole, [](const std::string& n) {
            return n.ends_with("q_proj.weight") ? n.substr(0, n.size() - 6) + "qweight" : n;
          }),
          Contains("q_proj.qweight") && Contains("parts of a quantized weight"));
  Shapes adapter = {{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", {2, 8}}};
  refused(llama_config(), adapter, Contains("LoRA adapter"));
}

TEST_CASE("what config.json switches off is not used, and what it switches on is needed") {
  Shapes s = llama_shapes();
  const auto bias = [&](const std::string& name, int64_t size) { s["model.layers.0." + name] = {size}; };
  bias("self_attn.q_proj.bias", 8);
  CHECK_THAT(check(llama_config(), s).at(0), Contains("model.layers.0.self_attn.q_proj.bias"));
  Json on = llama_config();
  on["attention_bias"] = true;
  refused(on, s, Contains("lacks 7 tensors") && Contains("has attention_bias true") && !Contains("quantized"));
  Json qwen = llama_config();  // its biases are always there
  qwen["model_type"] = "qwen2";
  refused(qwen, s, Contains("lacks 5 tensors") && Contains("is the download complete") && !Contains("quantized"));
  s = llama_shapes();
  bias("mlp.up_proj.bias", 6);
  CHECK(check(llama_config(), s).size() == 1);
  on = llama_config();
  on["mlp_bias"] = true;
  refused(on, s, Contains("lacks 5 tensors") && Contains("has mlp_bias true"));
  // A Mistral has no biases, whatever the flag says.
  Json mistral = llama_config();
  mistral["model_type"] = "mistral";
  mistral["attention_bias"] = true;
  s = llama_shapes();
  bias("self_attn.q_proj.bias", 8);
  CHECK(check(mistral, s).size() == 1);
  // Old files have RoPE's frequencies.
  s = llama_shapes();
  s["model.layers.0.self_attn.rotary_emb.inv_freq"] = {1};
  CHECK(check(llama_config(), s).empty());
  s["score.weight"] = {2, 8};
  s["model.layers.2.mlp.up_proj.weight"] = {6, 8};
  CHECK_THAT(check(llama_config(), s).at(0), Contains("2 tensors") && Contains("score.weight") && Contains("model.layers.2."));
}

TEST_CASE("of a type that is not known, every layer has tensors") {
  const Json config = {{"model_type", "newest"}, {"num_hidden_layers", 2}};
  const Shapes s = {{"model.layers.0.mix.weight", {2, 2}}, {"model.layers.1.mix.weight", {2, 2}}};
  CHECK(check(config, s).empty());
  Json more = config;
  more["num_hidden_layers"] = 3;
  refused(more, s, Contains("no tensor of layer 2"));
  // Lists inside of lists, and names without numbers, tell nothing.
  CHECK(check(more, {{"encoder.block.0.layer.0.w.weight", {2, 2}}}).empty());
  CHECK(check(more, {{"trunk.one.weight", {2, 2}}}).empty());
}

TEST_CASE("codes that nothing explains are not weights") {
  for (const DType dtype : {DType::i8, DType::u8, DType::i32, DType::f8_e4m3, DType::f8_e5m2}) {
    const TempFolder t;
    write_model(t.path(), llama_config(), {{"model.layers.0.mlp.up_proj.weight", {6, 8}}, {"model.layers.0.mlp.up_proj.SCB", {6}}}, {}, dtype);
    CHECK_THROWS_AS(open_checkpoint(t.path()), FormatError);
    CHECK_THROWS_WITH(open_checkpoint(t.path()), Contains("codes, not weights") && Contains("next to 'model.layers.0.mlp.up_proj.SCB'") &&
                                                     Contains("no quantization_config"));
  }
}

TEST_CASE("what a model must have is stored as numbers, whatever its shape and name") {
  for (const char* name : {"model.norm.weight", "model.layers.0.input_layernorm.weight", "model.embed_tokens.weight", "lm_head.weight",
                           "model.layers.1.mlp.up_proj.weight"})
    for (const DType dtype : {DType::i8, DType::i64, DType::boolean, DType::c64, DType::f8_e4m3, DType::f8_e8m0}) {
      CAPTURE(name, dtype_name(dtype));
      const TempFolder t;
      write_model(t.path(), llama_config(), llama_shapes(), {{name, dtype}});
      const auto read = [&] { return check_model(open_checkpoint(t.path())); };
      CHECK_THROWS_AS(read(), FormatError);
      CHECK_THROWS_WITH(read(), Contains(name) && Contains(std::string(dtype_name(dtype))) && Contains("not weights"));
    }
  // Also a bias, which has another name.
  Json with_bias = llama_config();
  with_bias["attention_bias"] = true;
  Shapes s = llama_shapes();
  for (const char* layer : {"model.layers.0.", "model.layers.1."})
    for (const auto& [at, size] : std::map<std::string, int64_t>{{"q", 8}, {"k", 4}, {"v", 4}, {"o", 8}})
      s[layer + ("self_attn." + at) + "_proj.bias"] = {size};
  const TempFolder t;
  write_model(t.path(), with_bias, s, {{"model.layers.1.self_attn.k_proj.bias", DType::i8}});
  CHECK_THROWS_WITH(check_model(open_checkpoint(t.path())), Contains("k_proj.bias") && Contains("not weights"));
  Json none = llama_config();
  none["num_hidden_layers"] = 0;
  refused(none, llama_shapes(), Contains("num_hidden_layers 0"));
}

TEST_CASE("a folder with Git LFS pointers, or with tokens beyond the embedding, is refused") {
  const TempFolder t;
  write_model(t.path(), llama_config(), llama_shapes());
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') + "\nsize 538\n";
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.txt", "generation_config.json"}) {
    write_text(t.path() / name, pointer);
    CHECK_THROWS_WITH(check_model(open_checkpoint(t.path())), Contains(name) && Contains("git lfs pull"));
    fs::remove(t.path() / name);
  }
  const auto tokens = [&](const Json& vocabulary, const Json& added) {
    write_text(t.path() / "tokenizer.json", Json{{"model", {{"type", "BPE"}, {"vocab", vocabulary}}}, {"added_tokens", added}}.dump());
    return check_model(open_checkpoint(t.path()));
  };
  CHECK(tokens({{"a", 0}, {"b", 11}}, {{{"id", 3}, {"content", "<tool>"}}}).empty());
  CHECK_THROWS_WITH(tokens({{"a", 0}}, {{{"id", 12}, {"content", "<tool>"}}}), Contains("'<tool>' (12)") && Contains("12 rows"));
  CHECK_THROWS_WITH(tokens({{"a", 0}, {"b", 12}}, Json::array()), Contains("'b' (12)"));
  CHECK_THROWS_WITH(tokens(Json::array({{"a", 0.5}, {"b", 0.5}, {"c", 0}, {"d", 0}, {"e", 0}, {"f", 0}, {"g", 0}, {"h", 0}, {"i", 0},
                                        {"j", 0}, {"k", 0}, {"l", 0}, {"m", 0}}),
                           Json::array()),
                    Contains("'m' (12)"));
  Json unknown = llama_config();
  unknown["model_type"] = "newest";
  write_text(t.path() / "config.json", unknown.dump());
  CHECK_THAT(check_model(open_checkpoint(t.path())).at(0), Contains("'m' (12)"));
  write_text(t.path() / "config.json", llama_config().dump());
  fs::remove(t.path() / "tokenizer.json");
  write_text(t.path() / "added_tokens.json", R"({"<tool>": 12})");
  CHECK_THROWS_WITH(check_model(open_checkpoint(t.path())), Contains("'<tool>' (12)"));
  for (const auto& [name, content] : std::map<std::string, std::string>{{"config.json", pointer}, {"model.safetensors", pointer}}) {
    const TempFolder other;
    write_model(other.path(), llama_config(), llama_shapes());
    write_text(other.path() / name, content);
    CHECK_THROWS_WITH(open_checkpoint(other.path()), Contains(name) && Contains("git lfs pull"));
    write_text(other.path() / name, "<!DOCTYPE html>\n<html><body>Sign in to continue</body></html>");
    CHECK_THROWS_WITH(open_checkpoint(other.path()), Contains(name) && Contains("is a web page"));
  }
}

TEST_CASE("a file next to the weights that no loader opens is refused, with its name and the place") {
  const TempFolder t;
  write_model(t.path(), llama_config(), llama_shapes());
  const auto damaged = [&](const std::string& name, const std::string& content, const std::string& cause) {
    CAPTURE(name, content);
    write_text(t.path() / name, content);
    CHECK_THROWS_AS(check_model(open_checkpoint(t.path())), FormatError);
    CHECK_THROWS_WITH(check_model(open_checkpoint(t.path())), Contains(name) && Contains(cause));
    fs::remove(t.path() / name);
  };
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json",
                           "generation_config.json", "preprocessor_config.json"}) {
    damaged(name, R"({"eos_token":"<|endo)", "byte 20");
    damaged(name, "[]", "is not a JSON object");
    damaged(name, "", "byte 0");
  }
  damaged("tokenizer.json", "{}", "has no 'model' with a 'vocab'");
  damaged("tokenizer.json", R"({"model": {"type": "BPE"}})", "has no 'model' with a 'vocab'");
  damaged("tokenizer.json", R"({"model": {"vocab": {}}, "added_tokens": {"<s>": 0}})", "'added_tokens' is not a list");
  damaged("tokenizer_config.json", R"({"eos_token": 2})", "'eos_token' is not a string");
  damaged("special_tokens_map.json", R"({"pad_token": {"id": 2}})", "'pad_token.content' is missing");
  damaged("added_tokens.json", R"({"<s>": "2"})", "'<s>' is not a token id");
  damaged("generation_config.json", R"({"eos_token_id": "2"})", "'eos_token_id' is not a token id");
  damaged("generation_config.json", R"({"eos_token_id": [2, null]})", "'eos_token_id' is not a token id");
  damaged("generation_config.json", R"({"temperature": "0.6"})", "'temperature' is not a number");

  const auto fine = [&](const std::string& name, const std::string& content) {
    write_text(t.path() / name, content);
    CHECK(check_model(open_checkpoint(t.path())).empty());
    fs::remove(t.path() / name);
  };
  fine("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": [["<unk>", 0.0]]}, "added_tokens": []})");
  fine("tokenizer_config.json", R"({"eos_token": {"content": "</s>"}, "pad_token": null, "unk_token": "<unk>", "model_max_length": 1e30})");
  fine("special_tokens_map.json", R"({"additional_special_tokens": ["<a>"], "bos_token": "<s>"})");
  fine("generation_config.json", R"({"eos_token_id": [2, 3], "bos_token_id": null, "temperature": Infinity, "top_k": 50})");
  fine("chat_template.jinja", "{% for %}");  // transformers opens a tokenizer with it
}

TEST_CASE("of two spellings of RoPE the older one counts, as in transformers") {
  const ModelKind& llama = *find_model_kind("llama");
  const auto read = [&](const Json& config) { return read_rope_config(JsonObject(config, "config.json", "", JsonNull::absent), llama).values; };
  const Json both = {{"rope_theta", 5e5},
                     {"max_position_embeddings", 4096},
                     {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                     {"rope_scaling", {{"type", "llama3"}, {"factor", 8.0}}}};
  CHECK(read(both) == Json{{"rope_type", "llama3"},
                           {"rope_theta", 5e5},
                           {"factor", 8.0},
                           {"partial_rotary_factor", 1.0},
                           {"original_max_position_embeddings", 4096}});
  Json j = both;
  j.erase("rope_theta");
  CHECK(read(j)["rope_theta"] == 10000.0);
  j["rope_scaling"]["rope_theta"] = 3.0;
  CHECK(read(j)["rope_theta"] == 3.0);
  j["original_max_position_embeddings"] = 99;
  CHECK(read(j)["original_max_position_embeddings"] == 99);
  for (const Json& none : {Json(), Json::object()}) {
    j = both;
    j["rope_scaling"] = none;
    CHECK(read(j) == Json{{"rope_type", "default"}, {"rope_theta", 1e6}, {"partial_rotary_factor", 1.0}});
  }
}

TEST_CASE("the first number that is not one is found, whatever is around it") {
  std::vector<float> values(10'000, -3.4e38f);
  values[17] = 1e-45f;
  values[18] = -0.0f;
  CHECK(first_not_finite(values) == -1);
  CHECK(first_not_finite({}) == -1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    for (const size_t at : {size_t{0}, size_t{4095}, size_t{4096}, size_t{9999}}) {
      std::vector<float> v = values;
      v[at] = bad;
      CHECK(first_not_finite(v) == int64_t(at));
      CHECK_THROWS_WITH(require_finite(v, "w", 5, 100, "model"), Contains("'w' row " + std::to_string(5 + at / 100)));
    }
}

TEST_CASE("an end of text that the model cannot write is noted") {
  Json config = llama_config();
  config["eos_token_id"] = {11, 12};
  const TempFolder t;
  write_model(t.path(), config, llama_shapes());
  write_text(t.path() / "generation_config.json", R"({"eos_token_id": -1})");
  const std::vector<std::string> notes = check_model(open_checkpoint(t.path()));
  REQUIRE(notes.size() == 2);
  CHECK_THAT(notes[0], Contains("config.json: eos_token_id 12 is no id"));
  CHECK_THAT(notes[1], Contains("generation_config.json: eos_token_id -1 is no id"));
}
