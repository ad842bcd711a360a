#include "prune/neurons_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "formats/safetensors.h"
#include "prune/ffn_cut.h"
#include "records/ffn_statistics.h"
#include "tests/support.h"

using namespace overproof;

namespace {

constexpr int64_t kHidden = 8, kNeurons = 96, kLayers = 2, kVocab = 11;

std::vector<float> random_values(int64_t n, const std::string& stream) {
  Rng rng(11, stream);
  std::vector<float> values(n);
  for (float& x : values) x = float(rng.normal());
  return values;
}

void write_tensors(const fs::path& folder, const std::string& file, const std::vector<TensorInfo>& tensors,
                   const Metadata& metadata = {}) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  SafetensorsWriter writer(out, file, tensors, metadata);
  for (const TensorInfo& tensor : tensors) writer.append_f32(random_values(tensor.elements(), tensor.name));
  writer.close();
}

/// A dense decoder's tensors, a configuration and a tokenizer that is copied unchanged.
void write_teacher(const fs::path& folder, int64_t neurons_in_config = kNeurons) {
  std::vector<TensorInfo> tensors = {{"model.embed_tokens.weight", DType::f32, {kVocab, kHidden}},
                                     {"model.norm.weight", DType::f32, {kHidden}}};
  for (int64_t l = 0; l < kLayers; ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    tensors.push_back({layer + "self_attn.q_proj.weight", DType::f32, {kHidden, kHidden}});
    tensors.push_back({layer + "mlp.gate_proj.weight", DType::bf16, {kNeurons, kHidden}});
    tensors.push_back({layer + "mlp.up_proj.weight", DType::f32, {kNeurons, kHidden}});
    tensors.push_back({layer + "mlp.down_proj.weight", DType::f32, {kHidden, kNeurons}});
  }
  write_tensors(folder, "model.safetensors", tensors);
  const Json config = {{"model_type", "llama"},        {"architectures", {"LlamaForCausalLM"}},  {"hidden_size", kHidden},
                       {"num_hidden_layers", kLayers}, {"intermediate_size", neurons_in_config}, {"torch_dtype", "bfloat16"}};
  std::ofstream(folder / "config.json") << config.dump();
  std::ofstream(folder / "tokenizer.json") << "{\"model\":{\"vocab\":{}}}";
}

std::vector<float> importance_of(int64_t layer, int64_t neurons) {
  std::vector<float> values = random_values(neurons, fmt::format("importance of layer {}", layer));
  for (float& x : values) x = std::abs(x);
  return values;
}

std::vector<float> mean_of(int64_t layer, int64_t neurons) { return random_values(neurons, fmt::format("mean of layer {}", layer)); }

void write_statistics(const fs::path& folder, int64_t neurons = kNeurons, const Digest& teacher = {}) {
  const std::vector<int32_t> ids(4);
  const std::vector<uint16_t> input(4 * kHidden);
  std::vector<float> importance, mean;
  fs::create_directories(folder);
  OutputFolder out(folder);
  write_ffn_statistics({.teacher_root = teacher,
                        .corpus_root = {},
                        .tokens = 4,
                        .window_length = 2,
                        .layers = kLayers,
                        .hidden_size = kHidden,
                        .intermediate_size = neurons,
                        .moments = true},
                       ids,
                       [&](int64_t layer) -> FfnObservation {
                         importance = importance_of(layer, neurons);
                         mean = mean_of(layer, neurons);
                         return {input, importance, mean, importance};
                       },
                       out);
}

StageReport prune(const fs::path& root, double keep, WeightDType dtype = WeightDType::automatic, Tie tie = Tie::automatic,
                  PruneNeuronsConfig::Bias bias = PruneNeuronsConfig::Bias::automatic) {
  const Inputs inputs({{"teacher", {root / "teacher", {}}}, {"statistics", {root / "statistics", {}}}});
  fs::create_directories(root / "out");
  Outputs outputs(root / "out", root / "scratch");
  return run_prune_neurons({.keep = keep, .method = NeuronMethod::active, .bias = bias, .written = {dtype, tie}}, inputs, outputs);
}

}  // namespace

TEST_CASE("the number of kept neurons is a multiple of 32 within bounds") {
  CHECK(kept_neurons(1536, 0.25) == 384);
  CHECK(kept_neurons(1536, 0.26) == 384);
  CHECK(kept_neurons(1536, 0.27) == 416);
  CHECK(kept_neurons(1536, 0.001) == 32);
  CHECK(kept_neurons(1536, 1.0) == 1536);
  CHECK(kept_neurons(40, 1.0) == 40);
  CHECK(kept_neurons(20, 0.5) == 20);
}

TEST_CASE("the most important neurons are chosen, in order, the earlier of equals first") {
  const std::vector<float> importance = {1, 5, 3, 5, 0, 3, 9};
  CHECK(highest_scores(importance, 3) == std::vector<int64_t>{1, 3, 6});
  CHECK(highest_scores(importance, 4) == std::vector<int64_t>{1, 2, 3, 6});
  CHECK(highest_scores(importance, 7) == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6});
}

TEST_CASE("pruning keeps the chosen rows and columns and nothing else changes") {
  const TempFolder folder;
  write_teacher(folder.path() / "teacher");
  write_statistics(folder.path() / "statistics");
  const StageReport report = prune(folder.path(), 0.34);
  CHECK(report.metrics()["kept"] == 32);

  const Checkpoint before = open_checkpoint(folder.path() / "teacher"), after = open_checkpoint(folder.path() / "out");
  CHECK((*after.config)["intermediate_size"] == 32);
  CHECK((*after.config)["dtype"] == "float32");
  CHECK((*after.config)["hidden_size"] == kHidden);
  REQUIRE(after.tensors->tensors().size() == before.tensors->tensors().size());
  for (const TensorInfo& info : before.tensors->tensors()) {
    const std::vector<float> a = before.tensors->read_all_f32(info.name), b = after.tensors->read_all_f32(info.name);
    const size_t mlp = info.name.find(".mlp.");
    if (mlp == std::string::npos) {
      CHECK(a == b);
      continue;
    }
    const std::vector<int64_t> kept = highest_scores(importance_of(info.name[13] - '0', kNeurons), 32);  // "model.layers.0..."
    const bool down = info.name.find("down_proj") != std::string::npos;
    REQUIRE(b.size() == size_t(32 * kHidden));
    for (int64_t j = 0; j < 32; ++j)
      for (int64_t h = 0; h < kHidden; ++h)
        REQUIRE((down ? b[h * 32 + j] == a[h * kNeurons + kept[j]] : b[j * kHidden + h] == a[kept[j] * kHidden + h]));
  }
  CHECK(read_file(folder.path() / "out" / "tokenizer.json") == "{\"model\":{\"vocab\":{}}}");
}

TEST_CASE("pruning writes the type that is asked for, and a head of its own where that is asked for") {
  const TempFolder folder;
  write_teacher(folder.path() / "teacher");
  write_statistics(folder.path() / "statistics");
  const StageReport report = prune(folder.path(), 0.34, WeightDType::bf16, Tie::no);
  CHECK(report.metrics()["dtype"] == "BF16");
  CHECK(report.metrics()["tied"] == false);
  CHECK(report.metrics()["tie_would_save"] == kVocab * kHidden * 2);
  const Checkpoint after = open_checkpoint(folder.path() / "out");
  CHECK((*after.config)["dtype"] == "bfloat16");
  CHECK((*after.config)["tie_word_embeddings"] == false);
  for (const TensorInfo& info : after.tensors->tensors()) CHECK(info.dtype == DType::bf16);
  CHECK(after.tensors->read_all_f32("lm_head.weight") == after.tensors->read_all_f32("model.embed_tokens.weight"));

  // Two tables that are equal are one: the student of the student is tied again.
  fs::remove_all(folder.path() / "teacher");
  fs::rename(folder.path() / "out", folder.path() / "teacher");
  write_statistics(folder.path() / "statistics", 32);
  const StageReport again = prune(folder.path(), 1.0, WeightDType::automatic, Tie::yes);
  CHECK(again.metrics()["dtype"] == "BF16");
  CHECK(again.metrics()["tied"] == true);
  const Checkpoint tied = open_checkpoint(folder.path() / "out");
  CHECK_FALSE(tied.tensors->find("lm_head.weight"));
  CHECK((*tied.config)["tie_word_embeddings"] == true);
  CHECK(tied.tensors->tensors().size() + 1 == after.tensors->tensors().size());
}

TEST_CASE("statistics or weights of another width are refused") {
  const TempFolder folder;
  write_teacher(folder.path() / "teacher");
  write_statistics(folder.path() / "statistics", kNeurons - 1);
  CHECK_THROWS_AS(prune(folder.path(), 0.34), MismatchError);
  write_statistics(folder.path() / "statistics", kNeurons / 2);
  write_teacher(folder.path() / "teacher", kNeurons / 2);  // its weights still have kNeurons
  CHECK_THROWS_AS(prune(folder.path(), 0.34), FormatError);
}

TEST_CASE("statistics of another teacher are refused") {
  const TempFolder folder;
  write_teacher(folder.path() / "teacher");
  write_statistics(folder.path() / "statistics", kNeurons, sha256(std::string_view("another teacher")));
  CHECK_THROWS_AS(prune(folder.path(), 0.34), MismatchError);
}

TEST_CASE("a bias replaces the mean of what removed neurons gave, and is added to one that was there") {
  const TempFolder folder;
  write_teacher(folder.path() / "teacher");
  write_statistics(folder.path() / "statistics");
  using Bias = PruneNeuronsConfig::Bias;
  const StageReport report = prune(folder.path(), 0.34, WeightDType::f32, Tie::automatic, Bias::yes);
  CHECK(report.metrics()["bias"] == true);
  const auto expected = [&](const Checkpoint& teacher, int64_t layer, int64_t neurons, int64_t keep) {
    const std::vector<float> down = teacher.tensors->read_all_f32(fmt::format("model.layers.{}.mlp.down_proj.weight", layer)), mean = mean_of(layer, neurons);
    std::vector<float> bias(size_t(kHidden), 0.0f);
    const std::vector<int64_t> kept = highest_scores(importance_of(layer, neurons), keep);
    for (int64_t h = 0; h < kHidden; ++h)
      for (int64_t j = 0; j < neurons; ++j)
        if (!std::ranges::binary_search(kept, j)) bias[size_t(h)] += down[size_t(h * neurons + j)] * mean[size_t(j)];
    return bias;
  };
  const Checkpoint teacher = open_checkpoint(folder.path() / "teacher"), after = open_checkpoint(folder.path() / "out");
  CHECK((*after.config)["mlp_bias"] == true);
  CHECK(after.tensors->tensors().size() == teacher.tensors->tensors().size() + 3 * kLayers);
  const std::string name = "model.layers.1.mlp.down_proj.bias";
  const std::vector<float> once = after.tensors->read_all_f32(name), wanted = expected(teacher, 1, kNeurons, 32);
  for (int64_t h = 0; h < kHidden; ++h) CHECK(once[size_t(h)] == Approx(wanted[size_t(h)]).margin(1e-4));
  CHECK(after.tensors->read_all_f32("model.layers.0.mlp.up_proj.bias") == std::vector<float>(32, 0.0f));

  // Once more, without removing anything: the bias stays as it is.
  fs::remove_all(folder.path() / "teacher");
  fs::rename(folder.path() / "out", folder.path() / "teacher");
  write_statistics(folder.path() / "statistics", 32);
  prune(folder.path(), 1.0, WeightDType::f32, Tie::automatic, Bias::yes);
  CHECK(open_checkpoint(folder.path() / "out").tensors->read_all_f32(name) == once);

  std::ofstream(folder.path() / "teacher" / "config.json") << Json{{"model_type", "qwen3"}, {"hidden_size", kHidden}, {"num_hidden_layers", kLayers}, {"intermediate_size", 32}}.dump();
  CHECK_THROWS_WITH(prune(folder.path(), 1.0, WeightDType::f32, Tie::automatic, Bias::yes), Catch::Contains("mlp_bias"));
}
