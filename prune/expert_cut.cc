#include "prune/expert_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "formats/model_config.h"
#include "formats/model_kinds.h"
#include "formats/never_chosen.h"
#include "formats/tensor_name.h"
#include "prune/picked_rows.h"

namespace overproof {
namespace {

/// A tensor of the new checkpoint and its origin.
struct Plan {
  TensorInfo out;
  TensorInfo from;                             ///< the parent's
  const std::vector<int64_t>* rows = nullptr;  ///< rows to take, -1: `empty`; null: all of them
  float empty = 0;
  bool zero = false;  ///< an expert in an empty place
};

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
    Plan plan{info, info};
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

RoutedExperts read_routed_experts(const Checkpoint& model) {
  const JsonObject fields(*model.config, model.path, "", JsonNull::absent);
  const ModelKind* kind = find_model_kind(fields.text("model_type", ""));
  if (!kind || !kind->is(ModelKind::glm4_moe))
    fields.fail(fmt::format("its model_type is '{}'; routed experts are removed from glm4_moe", fields.text("model_type", "")));
  if (model.quantization) fields.fail("is quantized; experts are removed from the checkpoint before quantization");
  if (fields.integer("first_k_dense_replace", 0, INT32_MAX, 1) != 0)
    fields.fail("has dense layers (first_k_dense_replace > 0); experts are removed where every layer has them");
  return {fields.integer("num_hidden_layers", 1, INT32_MAX), fields.integer("n_routed_experts", 1, INT32_MAX),
          fields.integer("num_experts_per_tok", 0, INT32_MAX)};
}

int64_t write_without_experts(const Checkpoint& model, const RouterCounts& counts, const std::vector<LayerDrop>& drops,
                              WeightDType asked, OutputFolder& folder) {
  const RoutedExperts given = read_routed_experts(model);
  OVERPROOF_CHECK(int64_t(drops.size()) == given.layers && counts.layers == given.layers && counts.experts == given.experts);
  const DType dtype = written_dtype(asked, model);
  std::vector<Plan> plans = plan_tensors(model, drops, given.experts);
  std::vector<TensorInfo> tensors;
  int64_t bytes = 0;
  for (Plan& plan : plans) {
    if (plan.out.dtype != DType::f32 && plan.out.dtype != DType::bf16 && plan.out.dtype != DType::f16)
      throw FormatError(model.path, -1,
                        fmt::format("{} has dtype {}; experts are removed from F32, BF16 and F16", plan.from.name,
                                    dtype_name(plan.out.dtype)));
    if (asked != WeightDType::automatic && !is_always_f32(plan.out.name)) plan.out.dtype = dtype;
    bytes += plan.out.bytes();
    tensors.push_back(plan.out);
  }
  ShardedWriter writer(folder, tensors);
  Progress progress("prune", bytes, "bytes");
  int64_t done = 0;
  for (const Plan& plan : plans) {
    const std::vector<int64_t> nothing(plan.zero && !plan.out.shape.empty() ? size_t(plan.out.shape[0]) : 0, -1);
    write_rows(*model.tensors, plan.from, plan.zero ? &nothing : plan.rows, plan.empty, writer);
    progress.update(done += plan.out.bytes());
  }
  writer.close();

  int64_t least_left = given.experts;
  for (const LayerDrop& drop : drops) least_left = std::min(least_left, given.experts - int64_t(drop.removed.size()));
  const int64_t top_k = std::min(given.top_k, least_left);
  Json config = *model.config;
  config["n_routed_experts"] = drops.front().places.size();
  config["num_experts_per_tok"] = top_k;
  if (asked != WeightDType::automatic) set_stored_dtype(config, dtype);
  write_pruned_config(model.path, config, folder);
  write_router_counts(folder, counts_of_the_rest(counts, drops));
  return top_k;
}

}  // namespace overproof
