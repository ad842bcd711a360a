#include "prune/source_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "data/tokenizer_files.h"
#include "formats/model_config.h"
#include "formats/sharded.h"
#include "formats/tensor_name.h"

namespace overproof {
namespace {

/// Added to a score in (0, 1), so that the expert is never selected. Finite, because loaders mask with minus infinity and could
/// select from a tie with that.
constexpr float kNeverChosen = -1e9f;
constexpr int64_t kBlockElements = int64_t{1} << 20;
constexpr int64_t kLeastExperts = 2;  // loaders need at least two

/// Experts of a layer by descending share of the source; equal shares in ascending order.
std::vector<int64_t> by_mass(const RouterCounts& counts, int64_t source, int64_t layer) {
  std::vector<int64_t> experts(static_cast<size_t>(counts.experts));
  std::iota(experts.begin(), experts.end(), int64_t{0});
  std::ranges::stable_sort(experts,
                           [&](int64_t a, int64_t b) { return counts.mass(source, layer, a) > counts.mass(source, layer, b); });
  return experts;
}

/// A tensor of the new checkpoint and its origin.
struct Plan {
  TensorInfo out;
  std::string from;                            ///< its name in the parent
  const std::vector<int64_t>* rows = nullptr;  ///< rows to take, -1: `empty`; null: all of them
  float empty = 0;
  bool zero = false;  ///< an expert in an empty place
};

void write_tensor(const TensorSource& source, const Plan& plan, ShardedWriter& writer) {
  const int64_t rows = plan.out.shape.empty() ? 1 : plan.out.shape[0], row = rows == 0 ? 0 : plan.out.elements() / rows;
  const int64_t block = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, row));
  std::vector<float> values;
  for (int64_t begin = 0; begin < rows; begin += block) {
    throw_if_interrupted();
    const int64_t n = std::min(block, rows - begin);
    values.assign(size_t(n * row), plan.empty);
    if (plan.rows) {
      for (int64_t i = 0; i < n; ++i)
        if (const int64_t from = (*plan.rows)[size_t(begin + i)]; from >= 0)
          source.read_f32(plan.from, from, 1, std::span(values).subspan(size_t(i * row), size_t(row)));
    } else if (!plan.zero) {
      source.read_f32(plan.from, begin, n, values);
    }
    require_range(plan.out.dtype, values, plan.out.name);
    writer.append_f32(values);
  }
}

std::vector<Plan> plan_tensors(const Checkpoint& student, const std::vector<LayerDrop>& drops, int64_t experts) {
  const auto layers = int64_t(drops.size());
  std::vector<std::vector<int64_t>> place_of(drops.size(),
                                             std::vector<int64_t>(size_t(experts), -1));  // [layers][expert of the parent]
  std::vector<std::vector<int64_t>> dropped_places(drops.size());
  for (size_t l = 0; l < drops.size(); ++l)
    for (size_t p = 0; p < drops[l].places.size(); ++p) {
      if (const int64_t e = drops[l].places[p]; e >= 0) place_of[l][size_t(e)] = int64_t(p);
      else dropped_places[l].push_back(int64_t(p));
    }
  std::vector<Plan> plans;
  std::set<std::string> names;
  int64_t expert_tensors = 0, routers = 0, biases = 0;
  for (const TensorInfo& info : student.tensors->tensors()) {
    const TensorName name = TensorName::parse(info.name);
    if (name.in_decoder() && name.layer >= layers)
      throw FormatError(student.path, -1, fmt::format("{}: the configuration has {} layers", info.name, layers));
    Plan plan{info, info.name};
    if (name.in_decoder() && name.rest.starts_with("mlp.experts.") && name.expert >= 0) {
      if (name.expert >= experts)
        throw FormatError(student.path, -1, fmt::format("{}: the configuration has {} experts", info.name, experts));
      ++expert_tensors;
      const auto l = size_t(name.layer);
      const auto put = [&](int64_t place, bool zero) {
        plan.out.name = fmt::format("model.layers.{}.mlp.experts.{}.{}", name.layer, place,
                                    std::string_view(info.name).substr(name.expert_prefix.size()));
        plan.zero = zero;
        if (!names.insert(plan.out.name).second) throw FormatError(student.path, -1, fmt::format("{} occurs twice", info.name));
        plans.push_back(plan);
      };
      if (const int64_t place = place_of[l][size_t(name.expert)]; place >= 0) put(place, false);
      // Empty places are written next to the tensors of expert 0, which have the same shapes.
      if (name.expert == 0)
        for (const int64_t place : dropped_places[l]) put(place, true);
      continue;
    }
    const bool router = name.in_decoder() && name.rest == "mlp.gate.weight",
               bias = name.in_decoder() && name.rest == "mlp.gate.e_score_correction_bias";
    if (router || bias) {
      if (info.shape.empty() || info.shape[0] != experts)
        throw FormatError(student.path, -1,
                          fmt::format("{} does not have the {} experts of the configuration", info.name, experts));
      const std::vector<int64_t>& places = drops[size_t(name.layer)].places;
      plan.rows = &places;
      plan.out.shape[0] = int64_t(places.size());
      if (bias) plan.empty = kNeverChosen;
      (router ? routers : biases) += 1;
    }
    plans.push_back(std::move(plan));
  }
  if (expert_tensors != 3 * layers * experts || routers != layers || biases != layers)
    throw FormatError(student.path, -1, "weights of experts or routers are missing");
  return plans;
}

Json removed_list(const RouterCounts& counts, int64_t source, const std::vector<LayerDrop>& drops) {
  Json list = Json::array();
  for (size_t l = 0; l < drops.size(); ++l)
    for (const int64_t e : drops[l].removed)
      list.push_back({{"layer", l},
                      {"expert", e},
                      {"mass", counts.mass(source, int64_t(l), e)},
                      {"tokens", counts.of_expert(int64_t(l), e)},
                      {"tokens_of_source", counts.at(source, int64_t(l), e)}});
  return list;
}

RouterCounts counts_of_the_rest(const RouterCounts& counts, const std::vector<LayerDrop>& drops) {
  RouterCounts rest = counts;
  rest.experts = int64_t(drops.front().places.size());
  rest.counts.clear();
  for (int64_t s = 0; s < int64_t(counts.sources.size()); ++s)
    for (int64_t l = 0; l < counts.layers; ++l)
      for (const int64_t e : drops[size_t(l)].places) rest.counts.push_back(e >= 0 ? counts.at(s, l, e) : 0);
  return rest;
}

}  // namespace

std::vector<LayerDrop> choose_drop(const RouterCounts& counts, int64_t source, double threshold, Uneven uneven) {
  OVERPROOF_CHECK(source >= 0 && source < int64_t(counts.sources.size()));
  std::vector<std::vector<int64_t>> ranked;
  std::vector<int64_t> over;  // how many of each layer exceed the threshold
  double largest = 0;
  int64_t where_layer = 0, where_expert = 0;
  for (int64_t l = 0; l < counts.layers; ++l) {
    ranked.push_back(by_mass(counts, source, l));
    const auto exceeds = [&](int64_t e) { return counts.mass(source, l, e) > threshold; };
    over.push_back(std::ranges::count_if(ranked.back(), exceeds));
    if (const double mass = counts.mass(source, l, ranked.back().front()); mass > largest)
      largest = mass, where_layer = l, where_expert = ranked.back().front();
  }
  const int64_t most = *std::ranges::max_element(over);
  if (most == 0)
    throw UsageError(
        fmt::format("no expert took more than {:.4g} of its tokens from '{}'; the largest share is {:.4g} (layer {}, expert {}). Lower "
                    "threshold to remove it",
                    threshold, counts.sources[size_t(source)], largest, where_layer, where_expert));
  if (most >= counts.experts)
    throw UsageError(
        fmt::format("layer {} would have no expert left: each took more than {:.4g} of its tokens from '{}'. Raise threshold",
                    std::ranges::max_element(over) - over.begin(), threshold, counts.sources[size_t(source)]));
  const bool fill_by_rank = uneven == Uneven::rank;
  const int64_t gone = std::min(fill_by_rank ? most : *std::ranges::min_element(over), counts.experts - kLeastExperts);

  std::vector<LayerDrop> drops;
  for (int64_t l = 0; l < counts.layers; ++l) {
    const std::vector<int64_t>& rank = ranked[size_t(l)];
    LayerDrop drop;
    drop.removed.assign(rank.begin(), rank.begin() + (fill_by_rank ? most : over[size_t(l)]));
    std::ranges::sort(drop.removed);
    std::vector<int64_t> staying(rank.begin() + gone, rank.end());
    std::ranges::sort(staying);
    for (const int64_t e : staying) drop.places.push_back(std::ranges::binary_search(drop.removed, e) ? -1 : e);
    drops.push_back(std::move(drop));
  }
  return drops;
}

StageReport run_prune_source(const PruneSourceConfig& config, const Inputs& inputs, Outputs& outputs) {
  if (config.drop_source.empty()) throw UsageError("prune-source: --drop-source is missing (the source to remove)");
  const Checkpoint student = open_checkpoint(inputs.path("student"));
  const JsonObject fields(*student.config, student.path, "", JsonNull::absent);
  if (fields.text("model_type", "") != "glm4_moe")
    throw FormatError(student.path, -1,
                      fmt::format("its model_type is '{}', which has no routed experts; prune-source reads glm4_moe",
                                  fields.text("model_type", "")));
  if (student.quantization)
    throw FormatError(student.path, -1, "is quantized; prune-source reads the checkpoint before quantization");
  if (fields.integer("first_k_dense_replace", 0, INT32_MAX, 1) != 0)
    throw FormatError(student.path, -1, "has dense layers (first_k_dense_replace > 0); prune-source needs experts in every layer");
  const int64_t layers = fields.integer("num_hidden_layers", 0, INT32_MAX),
                experts = fields.integer("n_routed_experts", 0, INT32_MAX),
                top_k = fields.integer("num_experts_per_tok", 0, INT32_MAX);

  const std::string counts_slot = inputs.has("counts") ? "counts" : "student";
  if (!has_router_counts(inputs.path(counts_slot)))
    throw MismatchError(fmt::format("{}: has no {}; give an artifact with the counts of the same experts by --counts",
                                    inputs.path(counts_slot).filename().string(), kRouterCountsFile));
  const RouterCounts counts = read_router_counts(inputs.path(counts_slot));
  if (counts.layers != layers || counts.experts != experts || layers < 1)
    throw MismatchError(fmt::format("shapes differ: router counts {} layers x {} experts, student {} x {}", counts.layers,
                                    counts.experts, layers, experts));
  const int64_t source = counts.find(config.drop_source);
  const std::vector<LayerDrop> drops = choose_drop(counts, source, config.threshold, config.uneven);

  std::vector<Plan> plans = plan_tensors(student, drops, experts);
  const DType dtype = written_dtype(config.dtype, student);
  std::vector<TensorInfo> tensors;
  int64_t bytes = 0;
  for (Plan& plan : plans) {
    if (plan.out.dtype != DType::f32 && plan.out.dtype != DType::bf16 && plan.out.dtype != DType::f16)
      throw FormatError(
          student.path, -1,
          fmt::format("{} has dtype {}; prune-source reads F32, BF16 and F16", plan.from, dtype_name(plan.out.dtype)));
    if (config.dtype != WeightDType::automatic && !is_always_f32(plan.out.name)) plan.out.dtype = dtype;
    bytes += plan.out.bytes();
    tensors.push_back(plan.out);
  }
  OutputFolder& folder = outputs.folder();
  ShardedWriter writer(folder, tensors);
  {
    Progress progress("prune", bytes, "bytes");
    int64_t done = 0;
    for (const Plan& plan : plans) {
      write_tensor(*student.tensors, plan, writer);
      progress.update(done += plan.out.bytes());
    }
  }
  writer.close();

  const auto places = int64_t(drops.front().places.size());
  int64_t removed = 0, empty = 0, least_left = experts, of_source = 0, left = 0;
  Json kept = Json::array();
  for (int64_t l = 0; l < layers; ++l) {
    const LayerDrop& drop = drops[size_t(l)];
    removed += int64_t(drop.removed.size());
    empty += std::ranges::count(drop.places, int64_t{-1});
    least_left = std::min(least_left, experts - int64_t(drop.removed.size()));
    of_source += counts.of_source(source, l);
    for (const int64_t e : drop.places) left += e >= 0 ? counts.at(source, l, e) : 0;
    kept.push_back(drop.places);
  }
  const int64_t new_top_k = std::min(top_k, least_left);
  Json out_config = *student.config;
  out_config["n_routed_experts"] = places;
  out_config["num_experts_per_tok"] = new_top_k;
  if (config.dtype != WeightDType::automatic) set_stored_dtype(out_config, dtype);
  folder.write_file("config.json", out_config.dump(2) + "\n");
  copy_tokenizer_files(student.path, folder);
  copy_file_if_present(student.path, "generation_config.json", folder);
  write_router_counts(folder, counts_of_the_rest(counts, drops));

  const double share_left = of_source > 0 ? double(left) / double(of_source) : 0.0;
  StageReport report;
  report.metrics() = {{"drop_source", config.drop_source},
                      {"source_tokens", counts.tokens[size_t(source)]},
                      {"removed", removed_list(counts, source, drops)},
                      {"places", kept},  // [layers][place]: expert of the parent, -1 for an empty place
                      {"experts_before", experts},
                      {"experts_after", places},
                      {"empty_places", empty},
                      {"top_k_before", top_k},
                      {"top_k", new_top_k},
                      {"source_share_left", share_left}};
  record_dtype(report.metrics(), dtype);
  report.summary = {
      fmt::format("removed {} of {} experts that took more than {:.4g} of their tokens from '{}'{}", removed, layers * experts,
                  config.threshold, config.drop_source, config.uneven == Uneven::rank ? ", and the next by rank in other layers" : ""),
      fmt::format("{} experts a layer (were {}), {} of all places empty; top-k {} (was {})", places, experts, empty, new_top_k,
                  top_k),
      fmt::format(
          "{:.1f} % of the routed choices for the source's {} tokens remain; attention, norms, embeddings and shared experts "
          "were trained on all sources and are unchanged",
          100 * share_left, counts.tokens[size_t(source)])};
  return report;
}

}  // namespace overproof
