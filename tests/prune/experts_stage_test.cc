#include "prune/experts_stage.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "records/expert_statistics.h"
#include "tests/prune/mixture.h"

using namespace overproof;

namespace {

using Method = PruneExpertsConfig::Method;
using Places = std::vector<std::vector<int64_t>>;

/// Of five experts: tokens and scores order them differently, and experts 1 and 3 give nearly the same. Expert 4 of layer 1 is a super-expert.
ExpertObservation observed(int64_t layer) {
  ExpertObservation seen;
  seen.tokens = {40, 30, 20, 10, 0};
  seen.reap = {1, 2, 3, 4, 0};
  seen.largest = {1, 1, 1, 1, layer == 1 ? 50.0f : 1.0f};
  for (const float angle : {0.0f, 5.0f, 11.0f, 5.1f, 20.0f})
    for (int64_t i = 0; i < kHidden; ++i) seen.mean_output.push_back(i == 0 ? angle : 0.0f);
  return seen;
}

void write_statistics(const fs::path& folder, const Digest& root = {}, int64_t experts = kExperts) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  write_expert_statistics({root, {}, 50, kLayers, experts, kHidden, 2},
                          [&](int64_t l) {
                            ExpertObservation seen = observed(l);
                            seen.tokens.resize(size_t(experts));
                            seen.reap.resize(size_t(experts));
                            seen.largest.resize(size_t(experts));
                            seen.mean_output.resize(size_t(experts * kHidden));
                            return seen;
                          },
                          out);
}

StageReport prune_experts(const fs::path& root, const PruneExpertsConfig& config) {
  fs::remove_all(root / "out");
  fs::create_directories(root / "out");
  Outputs outputs(root / "out", root / "scratch");
  return run_prune_experts(config, Inputs({{"student", {root / "student", {}}}, {"statistics", {root / "statistics", {}}}}), outputs);
}

std::vector<std::vector<int64_t>> places(const StageReport& report, size_t layer) {
  return report.metrics()["places"][layer].get<Places>();
}

}  // namespace

TEST_CASE("experts stay by their tokens or by REAP's score, and super experts whatever theirs") {
  const TempFolder folder;
  write_student(folder / "student");
  write_statistics(folder / "statistics");
  StageReport report = prune_experts(folder.path(), {.keep = 0.6, .method = Method::frequency, .protect = false});
  CHECK(places(report, 0) == Places{{0}, {1}, {2}});
  CHECK(report.metrics()["routed_share_left"].get<double>() == Approx(0.9));
  report = prune_experts(folder.path(), {.keep = 0.6, .method = Method::reap, .protect = false});
  CHECK(places(report, 1) == Places{{1}, {2}, {3}});
  report = prune_experts(folder.path(), {.keep = 0.6, .method = Method::reap});
  CHECK(places(report, 0) == Places{{1}, {2}, {3}});
  CHECK(places(report, 1) == Places{{2}, {3}, {4}});
  REQUIRE(report.metrics()["super_experts"].size() == 1);
  CHECK(report.metrics()["super_experts"][0]["expert"] == 4);

  const Checkpoint before = open_checkpoint(folder / "student"), after = open_checkpoint(folder / "out");
  CHECK((*after.config)["n_routed_experts"] == 3);
  CHECK((*after.config)["num_experts_per_tok"] == 2);
  for (const std::string part : {"gate_proj", "up_proj", "down_proj"})
    CHECK(after.tensors->read_all_f32(expert_name(1, 2, part)) == before.tensors->read_all_f32(expert_name(1, 4, part)));
  const auto rows = after.tensors->read_all_f32("model.layers.0.mlp.gate.weight"), old_rows = before.tensors->read_all_f32("model.layers.0.mlp.gate.weight");
  CHECK(std::equal(rows.begin(), rows.end(), old_rows.begin() + kHidden));
  CHECK_FALSE(has_router_counts(folder / "out"));  // the student has none
}

TEST_CASE("experts with similar outputs become their average, weighted by tokens or not") {
  const TempFolder folder;
  write_student(folder / "student", {{"num_experts_per_tok", 3}});
  write_statistics(folder / "statistics");
  RouterCounts counts{.sources = {"all"}, .layers = kLayers, .experts = kExperts, .tokens = {1000}, .counts = {}};
  for (int64_t i = 0; i < kLayers * kExperts; ++i) counts.counts.push_back(i + 1);
  {
    OutputFolder out(folder / "student");
    write_router_counts(out, counts);
  }
  const auto shares = GENERATE(PruneExpertsConfig::Shares::frequency, PruneExpertsConfig::Shares::equal);
  const StageReport report = prune_experts(folder.path(), {.keep = 0.8, .method = Method::merge, .shares = shares});
  CHECK(places(report, 0) == Places{{0}, {1, 3}, {2}, {4}});
  const double one = shares == PruneExpertsConfig::Shares::equal ? 0.5 : 0.75;
  const Checkpoint before = open_checkpoint(folder / "student"), after = open_checkpoint(folder / "out");
  CHECK((*after.config)["n_routed_experts"] == 4);
  const auto check = [&](const std::vector<float>& made, const std::vector<float>& a, const std::vector<float>& b, double margin) {
    REQUIRE(made.size() == a.size());
    for (size_t i = 0; i < made.size(); ++i) CHECK(made[i] == Approx(one * a[i] + (1 - one) * b[i]).margin(margin));
  };
  for (const std::string part : {"gate_proj", "up_proj", "down_proj"}) {
    check(after.tensors->read_all_f32(expert_name(0, 1, part)), before.tensors->read_all_f32(expert_name(0, 1, part)),
          before.tensors->read_all_f32(expert_name(0, 3, part)), 0.01);  // stored in bf16
    CHECK(after.tensors->read_all_f32(expert_name(0, 3, part)) == before.tensors->read_all_f32(expert_name(0, 4, part)));
  }
  for (const std::string name : {"model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.e_score_correction_bias"}) {
    const auto made = after.tensors->read_all_f32(name), old = before.tensors->read_all_f32(name);
    const size_t row = old.size() / kExperts;
    const auto part = [&](const std::vector<float>& values, size_t r) { return std::vector<float>(values.begin() + r * row, values.begin() + (r + 1) * row); };
    check(part(made, 1), part(old, 1), part(old, 3), 1e-6);
    CHECK(part(made, 2) == part(old, 2));
  }
  const RouterCounts rest = read_router_counts(folder / "out");
  CHECK(rest.at(0, 0, 1) == 2 + 4);
  CHECK(rest.at(0, 1, 3) == 10);
}

TEST_CASE("what experts cannot be chosen by is refused") {
  const TempFolder folder;
  write_student(folder / "student");
  fs::create_directories(folder / "statistics");
  CHECK_THROWS_WITH(prune_experts(folder.path(), {}), Catch::Contains("observe"));
  write_statistics(folder / "statistics", sha256(std::string_view("another")));
  CHECK_THROWS_AS(prune_experts(folder.path(), {}), MismatchError);
  write_statistics(folder / "statistics", {}, kExperts - 1);
  CHECK_THROWS_AS(prune_experts(folder.path(), {}), MismatchError);
  write_statistics(folder / "statistics");
  write_student(folder / "student", {{"model_type", "llama"}});
  CHECK_THROWS_AS(prune_experts(folder.path(), {}), FormatError);
}
