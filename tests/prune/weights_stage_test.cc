#include "prune/weights_stage.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "records/activation_statistics.h"
#include "tests/support.h"

using namespace overproof;

namespace {

constexpr int64_t kHidden = 8, kNeurons = 32, kLayers = 2, kVocab = 11;

std::vector<float> random_values(int64_t n, const std::string& stream) {
  Rng rng(11, stream);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& x : values) x = float(rng.normal());
  return values;
}

std::vector<TensorInfo> model_tensors_of() {
  std::vector<TensorInfo> tensors = {{"model.embed_tokens.weight", DType::f32, {kVocab, kHidden}}, {"model.norm.weight", DType::f32, {kHidden}}};
  for (int64_t l = 0; l < kLayers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    for (const char* norm : {"input_layernorm.weight", "post_attention_layernorm.weight"}) tensors.push_back({layer + norm, DType::f32, {kHidden}});
    for (const char* part : {"q_proj", "k_proj", "v_proj", "o_proj"}) tensors.push_back({layer + "self_attn." + part + ".weight", DType::f32, {kHidden, kHidden}});
    for (const char* part : {"gate_proj", "up_proj"}) tensors.push_back({layer + "mlp." + part + ".weight", DType::f32, {kNeurons, kHidden}});
    tensors.push_back({layer + "mlp.down_proj.weight", DType::f32, {kHidden, kNeurons}});
  }
  return tensors;
}

void write_model(const fs::path& folder, const Json& changes = Json::object()) {
  set_progress_mode(ProgressMode::off);
  fs::create_directories(folder);
  OutputFolder out(folder);
  const std::vector<TensorInfo> tensors = model_tensors_of();
  SafetensorsWriter writer(out, "model.safetensors", tensors);
  for (const TensorInfo& tensor : tensors) writer.append_f32(random_values(tensor.elements(), tensor.name));
  writer.close();
  Json config = {{"model_type", "llama"},      {"architectures", {"LlamaForCausalLM"}}, {"vocab_size", kVocab},    {"hidden_size", kHidden},
                 {"num_hidden_layers", kLayers}, {"intermediate_size", kNeurons},        {"num_attention_heads", 2}, {"num_key_value_heads", 2},
                 {"tie_word_embeddings", true}};
  config.update(changes);
  std::ofstream(folder / "config.json") << config.dump();
  std::ofstream(folder / "tokenizer.json") << "{\"model\":{\"vocab\":{}}}";
}

enum class Has { square, hessian, neither };

/// Statistics in which channel j has the mean square j + 1; those of `silent` weights saw no token.
void write_activations(const fs::path& folder, Has has, const std::string& silent = "", const Digest& root = {}) {
  fs::create_directories(folder);
  Json groups = Json::object();
  std::vector<TensorInfo> tensors;
  for (const TensorInfo& t : model_tensors_of()) {
    if (t.shape.size() != 2 || t.name.starts_with("model.embed")) continue;
    const std::string name = t.name.substr(0, t.name.size() - 7);
    groups[t.name] = name;
    const int64_t in = t.shape[1];
    tensors.insert(tensors.begin(), {name + ".tokens", DType::i64, {2}});
    tensors.push_back({name + ".amax", DType::f32, {in}});
    tensors.push_back({name + ".range", DType::f32, {2}});
    if (has == Has::square) tensors.push_back({name + ".square", DType::f32, {in}});
    if (has == Has::hessian) tensors.push_back({name + ".hessian", DType::f32, {in, in}});
  }
  for (const auto& [weight, name] : groups.items()) {
    const std::string group = name;
    tensors.push_back({group + ".samples", DType::f16, {1, group.ends_with("down_proj") ? kNeurons : kHidden}});
  }
  OutputFolder out(folder);
  SafetensorsWriter writer(out, kActivationsFile, tensors,
                           {{"model_root", root.hex()}, {"corpus_root", Digest{}.hex()}, {"tokens", "9"}, {"format_version", "1"}, {"groups", groups.dump()}});
  for (const TensorInfo& t : tensors) {
    if (t.dtype == DType::i64) {
      const int64_t counts[] = {!silent.empty() && t.name.find(silent) != std::string::npos ? 0 : 9, 0};
      writer.append(counts, sizeof counts);
      continue;
    }
    std::vector<float> values(size_t(t.elements()), 1.0f);
    if (t.name.ends_with(".range")) values = {-1, 1};
    if (t.name.ends_with(".square"))
      for (size_t j = 0; j < values.size(); ++j) values[j] = float(j + 1);
    if (t.name.ends_with(".hessian"))
      for (int64_t i = 0; i < t.shape[0]; ++i)
        for (int64_t j = 0; j < t.shape[0]; ++j) values[size_t(i * t.shape[0] + j)] = i == j ? float(j + 1) : 0.1f;
    writer.append_f32(values);
  }
  writer.close();
}

StageReport prune(const fs::path& root, const PruneWeightsConfig& config, bool with_statistics = true) {
  std::map<std::string, InputArtifact> slots = {{"model", {root / "model", {}}}};
  if (with_statistics) slots["statistics"] = {root / "statistics", {}};
  fs::remove_all(root / "out");
  fs::create_directories(root / "out");
  Outputs outputs(root / "out", root / "scratch");
  return run_prune_weights(config, Inputs(slots), outputs);
}

}  // namespace

TEST_CASE("weights of the layers' Linears become zero, and nothing else changes") {
  const TempFolder folder;
  write_model(folder / "model");
  write_activations(folder / "statistics", Has::square);
  const auto [method, sparsity, with] = GENERATE(table<WeightMethod, std::string, bool>(
      {{WeightMethod::magnitude, "0.5", false}, {WeightMethod::magnitude, "2:4", false}, {WeightMethod::wanda, "0.5", true}, {WeightMethod::wanda, "2:4", true}}));
  const StageReport report = prune(folder.path(), {.method = method, .sparsity = sparsity}, with);
  CHECK(report.metrics()["zeros"].get<double>() == Approx(0.5));
  REQUIRE(report.metrics()["layers"].size() == kLayers);
  CHECK(report.metrics()["layers"][1]["weights"] == 4 * kHidden * kHidden + 3 * kHidden * kNeurons);
  CHECK(report.metrics()["by_magnitude"] == 0);
  const Checkpoint before = open_checkpoint(folder / "model"), after = open_checkpoint(folder / "out");
  REQUIRE(after.tensors->tensors().size() == before.tensors->tensors().size());
  for (const TensorInfo& info : before.tensors->tensors()) {
    const std::vector<float> a = before.tensors->read_all_f32(info.name), b = after.tensors->read_all_f32(info.name);
    if (info.shape.size() != 2 || info.name.starts_with("model.embed")) {
      CHECK(a == b);
      continue;
    }
    int64_t zeros = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      REQUIRE((b[i] == 0 || b[i] == a[i]));
      zeros += b[i] == 0;
      if (sparsity == "2:4" && i % 4 == 3) REQUIRE(std::count(b.begin() + int64_t(i) - 3, b.begin() + int64_t(i) + 1, 0.0f) == 2);
    }
    CHECK(zeros == int64_t(a.size()) / 2);
  }
  CHECK(read_file(folder / "out" / "tokenizer.json") == "{\"model\":{\"vocab\":{}}}");
}

TEST_CASE("Wanda takes its norms from the Hessian where a file has no mean squares") {
  const TempFolder folder;
  write_model(folder / "model");
  write_activations(folder / "statistics", Has::square);
  prune(folder.path(), {});
  const std::string by_square = read_file(folder / "out" / "model.safetensors");
  fs::remove_all(folder / "statistics");
  write_activations(folder / "statistics", Has::hessian);
  prune(folder.path(), {});
  CHECK(read_file(folder / "out" / "model.safetensors") == by_square);
  prune(folder.path(), {.method = WeightMethod::magnitude}, false);
  CHECK(read_file(folder / "out" / "model.safetensors") != by_square);
}

TEST_CASE("SparseGPT changes the weights that stay, and needs Hessians") {
  const TempFolder folder;
  write_model(folder / "model");
  write_activations(folder / "statistics", Has::square);
  CHECK_THROWS_WITH(prune(folder.path(), {.method = WeightMethod::sparsegpt}), Catch::Contains("--hessians"));
  fs::remove_all(folder / "statistics");
  write_activations(folder / "statistics", Has::hessian, "layers.1.mlp.down_proj");
  const StageReport report = prune(folder.path(), {.method = WeightMethod::sparsegpt, .sparsity = "2:4", .dtype = WeightDType::bf16});
  CHECK(report.metrics()["zeros"].get<double>() == Approx(0.5));
  CHECK(report.metrics()["by_magnitude"] == 1);
  CHECK(report.metrics()["dtype"] == "BF16");
  const Checkpoint before = open_checkpoint(folder / "model"), after = open_checkpoint(folder / "out");
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const std::vector<float> a = before.tensors->read_all_f32(name), b = after.tensors->read_all_f32(name);
  int64_t changed = 0;
  for (size_t i = 0; i < a.size(); ++i) changed += b[i] != 0 && std::abs(b[i] - a[i]) > 0.02f * std::abs(a[i]);
  CHECK(changed > 0);
}

TEST_CASE("a weight that is no number is refused by tensor and row, whatever the method would do with it") {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const WeightMethod method : {WeightMethod::magnitude, WeightMethod::wanda}) {
      const TempFolder folder;
      write_model(folder / "model");
      write_activations(folder / "statistics", Has::square);
      const fs::path file = folder / "model" / "model.safetensors";
      int64_t at = 0;
      {
        const SafetensorsFile model(file);
        REQUIRE(model.info(name).dtype == DType::f32);
        at = model.offset(name) + (kHidden + 1) * 4;
      }
      std::string bytes = read_file(file);
      std::memcpy(bytes.data() + at, &value, sizeof value);
      write_text(file, bytes);
      CHECK_THROWS_AS(prune(folder.path(), {.method = method}), FormatError);
      CHECK_THROWS_WITH(prune(folder.path(), {.method = method}), Catch::Contains("'" + name + "' row 1") && Catch::Contains("must be finite"));
    }
}

TEST_CASE("what cannot be pruned is refused with the way on") {
  const TempFolder folder;
  write_model(folder / "model");
  CHECK_THROWS_WITH(prune(folder.path(), {}, false), Catch::Contains("--statistics"));
  fs::create_directories(folder / "statistics");
  CHECK_THROWS_WITH(prune(folder.path(), {}), Catch::Contains("--linears"));
  write_activations(folder / "statistics", Has::neither);
  CHECK_THROWS_WITH(prune(folder.path(), {}), Catch::Contains("mean squares"));
  CHECK_THROWS_AS(prune(folder.path(), {.sparsity = "half"}), UsageError);
  fs::remove_all(folder / "statistics");
  write_activations(folder / "statistics", Has::square, "", sha256(std::string_view("another")));
  CHECK_THROWS_AS(prune(folder.path(), {}), MismatchError);
  fs::remove_all(folder / "statistics");
  write_activations(folder / "statistics", Has::square);
  CHECK_THROWS_WITH(prune(folder.path(), {.sparsity = "8:16"}), Catch::Contains("groups of 16"));
}
