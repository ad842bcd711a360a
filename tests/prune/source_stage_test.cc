#include "prune/source_stage.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "tests/prune/mixture.h"

using namespace overproof;

namespace {

/// Shares of "bad" by layer and expert; each expert took 100 tokens, the others from "good".
RouterCounts counts_of(const std::vector<std::vector<int64_t>>& bad) {
  RouterCounts c;
  c.sources = {"bad", "good"};
  c.layers = int64_t(bad.size());
  c.experts = int64_t(bad[0].size());
  c.tokens = {1000, 1000};
  for (const auto& layer : bad) c.counts.insert(c.counts.end(), layer.begin(), layer.end());
  for (const auto& layer : bad)
    for (const int64_t n : layer) c.counts.push_back(100 - n);
  return c;
}

using List = std::vector<int64_t>;
const std::vector<List> kShares = {{10, 90, 20, 60, 30},
                                   {70, 10, 20, 40, 30}};  // layer 0 loses experts 1 and 3, layer 1 expert 0

StageReport drop(const fs::path& root, PruneSourceConfig config, const std::string& out = "out") {
  fs::create_directories(root / out);
  Outputs outputs(root / out, root / "scratch");
  return run_prune_source(config, Inputs({{"student", {root / "student", {}}}}), outputs);
}

void write_counts(const fs::path& folder, const RouterCounts& counts) {
  OutputFolder out(folder);
  write_router_counts(out, counts);
}

}  // namespace

TEST_CASE("experts over the threshold go, and layers stay equally wide") {
  const RouterCounts counts = counts_of(kShares);
  const auto exact = choose_drop(counts, 0, 0.5, Uneven::empty);
  CHECK(exact[0].removed == List{1, 3});
  CHECK(exact[0].places == List{0, 2, -1, 4});  // one place less, as in the layer that loses fewest; expert 3's is empty
  CHECK(exact[1].removed == List{0});
  CHECK(exact[1].places == List{1, 2, 3, 4});
  const auto rank = choose_drop(counts, 0, 0.5, Uneven::rank);
  CHECK(rank[0].removed == List{1, 3});
  CHECK(rank[0].places == List{0, 2, 4});
  CHECK(rank[1].removed == List{0, 3});  // the next by its share
  CHECK(rank[1].places == List{1, 2, 4});

  // A layer that loses none keeps every place, and so do all: those that go leave empty ones.
  const auto one = choose_drop(counts, 0, 0.8, Uneven::empty);
  CHECK(one[0].places == List{0, -1, 2, 3, 4});
  CHECK(one[1].places == List{0, 1, 2, 3, 4});
  // Exactly at the threshold is not over it.
  CHECK(choose_drop(counts, 0, 0.6, Uneven::empty)[0].removed == List{1});
  // At least two places stay, as loaders require.
  const auto most = choose_drop(counts_of({{90, 90, 90, 90, 10}, {90, 90, 90, 90, 10}}), 0, 0.5, Uneven::empty);
  CHECK(most[0].places.size() == 2);
  CHECK(std::count(most[0].places.begin(), most[0].places.end(), -1) == 1);
}

TEST_CASE("a threshold that drops nothing, or a whole layer, is refused with what would") {
  CHECK_THROWS_WITH(choose_drop(counts_of(kShares), 0, 0.95, Uneven::empty), Catch::Contains("0.9 (layer 0, expert 1)"));
  CHECK_THROWS_WITH(choose_drop(counts_of(kShares), 0, 0.05, Uneven::empty), Catch::Contains("layer 0 would have no expert left"));
}

TEST_CASE("remaining experts are unchanged in their new places, and removed experts are gone") {
  const TempFolder folder;
  write_student(folder / "student");
  write_counts(folder / "student", counts_of(kShares));
  PruneSourceConfig config;
  config.drop_source = "bad";
  const StageReport report = drop(folder.path(), config);
  const Checkpoint before = open_checkpoint(folder / "student"), after = open_checkpoint(folder / "out");
  CHECK((*after.config)["n_routed_experts"] == 4);
  CHECK((*after.config)["num_experts_per_tok"] == 2);
  const auto drops = choose_drop(counts_of(kShares), 0, 0.5, Uneven::empty);
  REQUIRE(after.tensors->tensors().size() == before.tensors->tensors().size() - 3 * kLayers);
  for (int64_t l = 0; l < kLayers; ++l) {
    const std::string gate = "model.layers." + std::to_string(l) + ".mlp.gate.";
    const auto rows = after.tensors->read_all_f32(gate + "weight"), old_rows = before.tensors->read_all_f32(gate + "weight");
    const auto bias = after.tensors->read_all_f32(gate + "e_score_correction_bias"),
               old_bias = before.tensors->read_all_f32(gate + "e_score_correction_bias");
    REQUIRE(bias.size() == 4);
    for (int64_t place = 0; place < 4; ++place) {
      const int64_t expert = drops[l].places[place];
      for (const std::string part : {"gate_proj", "up_proj", "down_proj"}) {
        const TensorInfo* info = after.tensors->find(expert_name(l, place, part));
        REQUIRE(info);
        CHECK(info->dtype == DType::bf16);
        const auto values = after.tensors->read_all_f32(info->name);
        if (expert >= 0) CHECK(values == before.tensors->read_all_f32(expert_name(l, expert, part)));
        else CHECK(values == std::vector<float>(values.size(), 0.0f));
      }
      for (int64_t h = 0; h < kHidden; ++h)
        CHECK(rows[place * kHidden + h] == (expert >= 0 ? old_rows[expert * kHidden + h] : 0.0f));
      if (expert >= 0) CHECK(bias[place] == old_bias[expert]);
      else CHECK(bias[place] < -1e8f);
    }
  }
  for (const std::string name : {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight",
                                 "model.layers.0.mlp.shared_experts.gate_proj.weight"})
    CHECK(after.tensors->read_all_f32(name) == before.tensors->read_all_f32(name));
  CHECK(read_file(folder / "out" / "tokenizer.json") == "{\"model\":{\"vocab\":{}}}");

  const Json& metrics = report.metrics();
  REQUIRE(metrics["removed"].size() == 3);
  CHECK(metrics["removed"][0] == Json{{"layer", 0}, {"expert", 1}, {"mass", 0.9}, {"tokens", 100}, {"tokens_of_source", 90}});
  CHECK(metrics["places"][0] == Json{0, 2, -1, 4});
  CHECK(metrics["empty_places"] == 1);
  CHECK(metrics["source_share_left"].get<double>() == Approx(160.0 / 380));
  const RouterCounts rest = read_router_counts(folder / "out");
  CHECK(rest.experts == 4);
  CHECK(rest.at(0, 0, 1) == 20);
  CHECK(rest.at(0, 0, 2) == 0);
  CHECK(rest.at(1, 1, 0) == 90);
}

TEST_CASE("top-k falls to what the poorest layer has left, and counts may come from elsewhere") {
  const TempFolder folder;
  write_student(folder / "student", {{"num_experts_per_tok", 4}});
  write_counts(folder / "other", counts_of(kShares));
  PruneSourceConfig config;
  config.drop_source = "bad";
  CHECK_THROWS_WITH(drop(folder.path(), config), Catch::Contains("--counts"));
  fs::create_directories(folder / "out2");
  Outputs outputs(folder / "out2", folder / "scratch");
  const StageReport report =
      run_prune_source(config, Inputs({{"student", {folder / "student", {}}}, {"counts", {folder / "other", {}}}}), outputs);
  CHECK(report.metrics()["top_k"] == 3);
  CHECK((*open_checkpoint(folder / "out2").config)["num_experts_per_tok"] == 3);
}

TEST_CASE("what cannot be pruned by source is refused") {
  const TempFolder folder;
  write_student(folder / "student");
  write_counts(folder / "student", counts_of(kShares));
  PruneSourceConfig config;
  config.drop_source = "bed";
  CHECK_THROWS_WITH(drop(folder.path(), config), Catch::Contains("did you mean 'bad'"));
  config.drop_source = "";
  CHECK_THROWS_AS(drop(folder.path(), config), UsageError);
  config.drop_source = "bad";
  write_student(folder / "student", {{"model_type", "llama"}});
  CHECK_THROWS_AS(drop(folder.path(), config), FormatError);
  write_student(folder / "student", {{"first_k_dense_replace", 1}});
  CHECK_THROWS_AS(drop(folder.path(), config), MismatchError);
  write_student(folder / "student", {{"n_routed_experts", 6}});
  CHECK_THROWS_AS(drop(folder.path(), config), MismatchError);
  write_student(folder / "student", {{"num_hidden_layers", 1}});
  write_counts(folder / "student", counts_of({kShares[0]}));
  CHECK_THROWS_AS(drop(folder.path(), config), FormatError);  // a layer beyond the configuration's
  write_student(folder / "student", {{"num_hidden_layers", 3}});
  write_counts(folder / "student", counts_of({kShares[0], kShares[1], kShares[0]}));
  CHECK_THROWS_AS(drop(folder.path(), config), FormatError);  // its weights are missing
}
