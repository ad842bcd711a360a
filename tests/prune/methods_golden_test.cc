#include <catch2/catch.hpp>

#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "formats/safetensors.h"
#include "prune/expert_choice.h"
#include "prune/neuron_scores.h"
#include "prune/weight_masks.h"
#include "tests/support.h"

using namespace overproof;

namespace {

const fs::path kGolden = fs::path(OVERPROOF_SOURCE_DIR) / "tests/golden/pruning/pruning.safetensors";

std::vector<float> golden(const std::string& name) {
  static const SafetensorsFile file(kGolden);
  const auto values = file.values<float>(name);
  return {values.begin(), values.end()};
}

std::vector<int64_t> golden_numbers(const std::string& name) {
  static const SafetensorsFile file(kGolden);
  const auto values = file.values<int32_t>(name);
  return {values.begin(), values.end()};
}

std::vector<int64_t> shape_of(const std::string& name) { return SafetensorsFile(kGolden).info(name).shape; }

/// The same zeros, and the other values within rounding.
void check_same(const std::vector<float>& made, const std::string& name, double tolerance) {
  INFO(name);
  const std::vector<float> expected = golden(name);
  REQUIRE(made.size() == expected.size());
  size_t zeros = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    INFO("element " << i);
    REQUIRE((made[i] == 0) == (expected[i] == 0));
    REQUIRE(made[i] == Approx(expected[i]).epsilon(tolerance).margin(tolerance));
    zeros += made[i] == 0;
  }
  CHECK(zeros > 0);
  CHECK(zeros < made.size());
}

/// A checkpoint with one layer's down_proj.
Checkpoint with_down(const fs::path& folder, const std::vector<float>& down, int64_t hidden, int64_t neurons) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  SafetensorsWriter writer(out, "model.safetensors", {{"model.layers.0.mlp.down_proj.weight", DType::f32, {hidden, neurons}}});
  writer.append_f32(down);
  writer.close();
  write_text(folder / "config.json", R"({"model_type": "llama"})");
  return open_checkpoint(folder);
}

/// Statistics of one layer with these moments.
void write_moments(const fs::path& folder, const std::vector<float>& mean, const std::vector<float>& variance, int64_t hidden) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  const std::vector<int32_t> ids(4);
  const std::vector<uint16_t> input(size_t(4 * hidden));
  const std::vector<float> importance(mean.size(), 1.0f);
  write_ffn_statistics({.teacher_root = {},
                        .corpus_root = {},
                        .tokens = 4,
                        .window_length = 2,
                        .layers = 1,
                        .hidden_size = hidden,
                        .intermediate_size = int64_t(mean.size()),
                        .moments = true},
                       ids, [&](int64_t) -> FfnObservation { return {input, importance, mean, variance}; }, out);
}

}  // namespace

TEST_CASE("FLAP's scores and bias are those of numpy") {
  const TempFolder folder;
  const auto shape = shape_of("flap.down");
  const DenseFfn ffn{1, shape[0], shape[1]};
  const Checkpoint model = with_down(folder / "model", golden("flap.down"), shape[0], shape[1]);
  write_moments(folder / "statistics", golden("flap.mean"), golden("flap.variance"), shape[0]);
  const FfnStatistics statistics(folder / "statistics");
  const std::vector<float> score = neuron_scores(NeuronMethod::flap, statistics, model, ffn, 0), expected = golden("flap.score");
  REQUIRE(score.size() == expected.size());
  for (size_t i = 0; i < score.size(); ++i) CHECK(score[i] == Approx(expected[i]).epsilon(1e-5));
  const std::vector<float> bias = compensating_bias(statistics.mean(0), golden_numbers("flap.kept"), model, ffn, 0), wanted = golden("flap.bias");
  REQUIRE(bias.size() == wanted.size());
  for (size_t i = 0; i < bias.size(); ++i) CHECK(bias[i] == Approx(wanted[i]).epsilon(1e-4).margin(1e-5));
  CHECK(neuron_scores(NeuronMethod::active, statistics, model, ffn, 0) == statistics.importance(0));
  CHECK_THROWS_WITH(neuron_scores(NeuronMethod::taylor, statistics, model, ffn, 0), Catch::Contains("--gradients"));
  CHECK_THROWS_AS(neuron_scores(NeuronMethod::flap, statistics, model, {1, shape[0], shape[1] - 1}, 0), FormatError);
}

TEST_CASE("magnitude and Wanda zero the weights that numpy zeroes") {
  const auto shape = shape_of("weight");
  const std::vector<float> norm = golden("norm");
  std::vector<float> w = golden("weight");
  zero_lowest(w, shape[0], shape[1], {}, WeightPattern::parse("0.5"), true);
  check_same(w, "magnitude.0.5", 0);
  for (const std::string sparsity : {"0.5", "2:4"}) {
    w = golden("weight");
    zero_lowest(w, shape[0], shape[1], norm, WeightPattern::parse(sparsity), false);
    check_same(w, "wanda." + sparsity, 0);
  }
}

TEST_CASE("SparseGPT zeros what numpy's does, and compensates alike, with any number of threads") {
  const auto shape = shape_of("weight");
  const auto factor = hessian_factor(golden("hessian"), shape[1], {0.01, false});
  REQUIRE(factor);
  for (const std::string sparsity : {"0.5", "2:4"}) {
    std::vector<float> w = golden("weight"), again = w;
    set_thread_count(1);
    const double loss = sparse_gpt(w, shape[0], *factor, WeightPattern::parse(sparsity));
    set_thread_count(3);
    CHECK(sparse_gpt(again, shape[0], *factor, WeightPattern::parse(sparsity)) == loss);
    set_thread_count(0);
    CHECK(w == again);
    CHECK(loss > 0);
    check_same(w, "sparsegpt." + sparsity, 2e-3);
    // What it does to the output is less than what the same share costs by Wanda.
    const std::vector<float> hessian = golden("hessian"), before = golden("weight"), wanda = golden("wanda." + sparsity);
    const auto error = [&](const std::vector<float>& after) {
      double sum = 0;
      for (int64_t r = 0; r < shape[0]; ++r)
        for (int64_t i = 0; i < shape[1]; ++i)
          for (int64_t j = 0; j < shape[1]; ++j)
            sum += double(before[r * shape[1] + i] - after[r * shape[1] + i]) * hessian[i * shape[1] + j] *
                   double(before[r * shape[1] + j] - after[r * shape[1] + j]);
      return sum;
    };
    CHECK(error(w) < error(wanda));
  }
}

TEST_CASE("a sparsity is a share or zeros of a group") {
  CHECK(WeightPattern::parse("0.25").share == 0.25);
  CHECK(WeightPattern::parse("2:4").zeros == 2);
  CHECK(WeightPattern::parse("1:8").group == 8);
  for (const std::string bad : {"", "1.5", "-0.1", "2:", ":4", "4:4", "0:4", "2:3", "2:4x", "nan", "0.5x", "2:256"}) {
    INFO(bad);
    CHECK_THROWS_AS(WeightPattern::parse(bad), UsageError);
  }
}

TEST_CASE("experts are clustered as SciPy clusters them, and protected ones stay alone") {
  const std::vector<float> vectors = golden("cluster.vectors");
  const int64_t n = shape_of("cluster.vectors")[0];
  for (const int64_t count : {2, 5, 9}) {
    const auto clusters = average_linkage(vectors, n, count, {});
    REQUIRE(int64_t(clusters.size()) == count);
    const std::vector<int64_t> label = golden_numbers("cluster." + std::to_string(count));
    for (const auto& a : clusters)
      for (const int64_t e : a)
        for (int64_t other = 0; other < n; ++other)
          CHECK((label[e] == label[other]) == (std::ranges::count(a, other) == 1));
  }
  const auto alone = average_linkage(vectors, n, 3, {1, 4});
  REQUIRE(alone.size() == 3);
  CHECK(std::ranges::count(alone, std::vector<int64_t>{1}) == 1);
  CHECK(std::ranges::count(alone, std::vector<int64_t>{4}) == 1);
  CHECK(average_linkage(vectors, n, n, {0}).size() == size_t(n));
}

TEST_CASE("super experts are those of numpy's percentile, and are chosen whatever their score") {
  const auto shape = shape_of("super.largest");
  const std::vector<float> all = golden("super.largest");
  std::vector<std::vector<float>> largest;
  for (int64_t l = 0; l < shape[0]; ++l) largest.emplace_back(all.begin() + l * shape[1], all.begin() + (l + 1) * shape[1]);
  const std::vector<int64_t> mask = golden_numbers("super.mask");
  const auto found = super_experts(largest);
  int64_t count = 0;
  for (int64_t l = 0; l < shape[0]; ++l)
    for (int64_t e = 0; e < shape[1]; ++e) {
      CHECK(std::ranges::count(found[size_t(l)], e) == mask[size_t(l * shape[1] + e)]);
      count += mask[size_t(l * shape[1] + e)];
    }
  CHECK(count == 2);
  CHECK(best_experts({5, 1, 5, 9, 0}, 3, {}) == std::vector<int64_t>{0, 2, 3});
  CHECK(best_experts({5, 1, 5, 9, 0}, 3, {4}) == std::vector<int64_t>{0, 3, 4});
  CHECK(best_experts({5, 1, 5, 9, 0}, 1, {1}) == std::vector<int64_t>{1});
}
