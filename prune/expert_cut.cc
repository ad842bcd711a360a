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
  TensorInfo from;                     ///< the parent's
  const LayerPlaces* rows = nullptr;   ///< of a router or its bias: the rows to take; null: all of them
  float empty = 0;                     ///< a row of an empty place
  bool zero = false;                   ///< an expert in an empty place
  std::vector<std::pair<std::string, double>> parts = {};  ///< of an expert that is made of several: the parent's tensors and their weights
};

std::vector<Plan> plan_tensors(const Checkpoint& student, const std::vector<LayerPlaces>& layers_places, const RoutedExperts& given) {
  const int64_t experts = given.experts;
  const auto layers = int64_t(layers_places.size());
  std::vector<std::vector<int64_t>> place_of(layers_places.size(),
                                             std::vector<int64_t>(size_t(experts), -1));  // [layers][first expert of a place]
  std::vector<std::vector<int64_t>> empty_places(layers_places.size());
  for (size_t l = 0; l < layers_places.size(); ++l)
    for (size_t p = 0; p < layers_places[l].size(); ++p) {
      if (layers_places[l][p].empty()) empty_places[l].push_back(int64_t(p));
      else place_of[l][size_t(layers_places[l][p].front().expert)] = int64_t(p);
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
      const std::string_view part = std::string_view(info.name).substr(name.expert_prefix.size());
      const auto name_of = [&](int64_t expert) { return fmt::format("model.layers.{}.mlp.experts.{}.{}", name.layer, expert, part); };
      const auto put = [&](int64_t place, bool zero) {
        plan.out.name = name_of(place);
        plan.zero = zero;
        plan.parts.clear();
        if (const auto& shares = layers_places[l][size_t(place)]; shares.size() > 1 || (shares.size() == 1 && shares[0].weight != 1))
          for (const ExpertShare& share : shares) {
            plan.parts.emplace_back(name_of(share.expert), share.weight);
            if (const TensorInfo* other = student.tensors->find(plan.parts.back().first); !other || other->shape != info.shape)
              throw FormatError(student.path, -1, fmt::format("{} is missing, or has another shape than {}", plan.parts.back().first, info.name));
          }
        if (!names.insert(plan.out.name).second) throw FormatError(student.path, -1, fmt::format("{} occurs twice", info.name));
        plans.push_back(plan);
      };
      if (const int64_t place = place_of[l][size_t(name.expert)]; place >= 0) put(place, false);
      // Empty places are written next to the tensors of expert 0, which have the same shapes.
      if (name.expert == 0)
        for (const int64_t place : empty_places[l]) put(place, true);
      continue;
    }
    const bool router = name.in_decoder() && name.rest == "mlp.gate.weight",
               bias = name.in_decoder() && name.rest == "mlp.gate.e_score_correction_bias";
    if (router || bias) {
      if (info.shape.empty() || info.shape[0] != experts)
        throw FormatError(student.path, -1,
                          fmt::format("{} does not have the {} experts of the configuration", info.name, experts));
      const LayerPlaces& places = layers_places[size_t(name.layer)];
      plan.rows = &places;
      plan.out.shape[0] = int64_t(places.size());
      if (bias) plan.empty = kNeverChosen;
      (router ? routers : biases) += 1;
    }
    plans.push_back(std::move(plan));
  }
  if (expert_tensors != 3 * layers * experts || routers != layers || biases != (given.biased ? layers : 0))
    throw FormatError(student.path, -1, "weights of experts or routers are missing");
  return plans;
}

/// Writes `rows` rows, of which row(r, n) adds weighted rows of the parent to sums [n, row elements].
template <class Rows>
void write_sums(const TensorInfo& out, const Rows& add, ShardedWriter& writer) {
  const int64_t rows = out.shape.empty() ? 1 : out.shape[0], row = rows == 0 ? 0 : out.elements() / rows;
  const int64_t block = std::max<int64_t>(1, kPrunedBlockElements / std::max<int64_t>(1, row));
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t n = std::min(block, rows - first);
    std::vector<double> sums(size_t(n * row), 0.0);
    add(first, n, row, sums);
    std::vector<float> values(sums.begin(), sums.end());
    require_range(out.dtype, values, out.name);
    writer.append_f32(values);
  }
}

void add_weighted(const TensorSource& source, const std::string& tensor, int64_t first, int64_t rows, double weight, std::span<double> sums) {
  std::vector<float> values(sums.size());
  source.read_f32(tensor, first, rows, values);
  for (size_t i = 0; i < values.size(); ++i) sums[i] += weight * values[i];
}

void write_planned(const TensorSource& source, const Plan& plan, ShardedWriter& writer) {
  if (!plan.parts.empty())
    return write_sums(
        plan.out,
        [&](int64_t first, int64_t n, int64_t, std::span<double> sums) {
          for (const auto& [tensor, weight] : plan.parts) add_weighted(source, tensor, first, n, weight, sums);
        },
        writer);
  if (!plan.rows) {
    const std::vector<int64_t> nothing(plan.zero && !plan.out.shape.empty() ? size_t(plan.out.shape[0]) : 0, -1);
    return write_rows(source, plan.from, plan.zero ? &nothing : nullptr, 0, writer);
  }
  const auto is_plain = [](const auto& shares) { return shares.empty() || (shares.size() == 1 && shares[0].weight == 1); };
  if (std::ranges::all_of(*plan.rows, is_plain)) {
    std::vector<int64_t> picked;
    for (const auto& shares : *plan.rows) picked.push_back(shares.empty() ? -1 : shares[0].expert);
    return write_rows(source, plan.from, &picked, plan.empty, writer);
  }
  write_sums(
      plan.out,
      [&](int64_t first, int64_t n, int64_t row, std::span<double> sums) {
        for (int64_t r = 0; r < n; ++r) {
          const auto into = sums.subspan(size_t(r * row), size_t(row));
          const auto& shares = (*plan.rows)[size_t(first + r)];
          if (shares.empty()) std::ranges::fill(into, double(plan.empty));
          for (const ExpertShare& share : shares) add_weighted(source, plan.from.name, share.expert, 1, share.weight, into);
        }
      },
      writer);
}

RouterCounts counts_of_the_rest(const RouterCounts& counts, const std::vector<LayerPlaces>& layers_places) {
  RouterCounts rest = counts;
  rest.experts = int64_t(layers_places.front().size());
  rest.counts.clear();
  for (int64_t s = 0; s < int64_t(counts.sources.size()); ++s)
    for (int64_t l = 0; l < counts.layers; ++l)
      for (const auto& shares : layers_places[size_t(l)]) {
        int64_t sum = 0;
        for (const ExpertShare& share : shares) sum += counts.at(s, l, share.expert);
        rest.counts.push_back(sum);
      }
  return rest;
}

}  // namespace

RoutedExperts read_routed_experts(const Checkpoint& model) {
  const JsonObject fields(*model.config, model.path, "", JsonNull::absent);
  const ModelKind* kind = find_model_kind(fields.text("model_type", ""));
  if (!kind || !kind->is(ModelKind::glm4_moe | ModelKind::qwen2_moe))
    fields.fail(fmt::format("its model_type is '{}'; routed experts are removed from glm4_moe and qwen2_moe", fields.text("model_type", "")));
  if (model.quantization) fields.fail("is quantized; experts are removed from the checkpoint before quantization");
  const bool qwen = kind->is(ModelKind::qwen2_moe);
  if (!qwen && fields.integer("first_k_dense_replace", 0, INT32_MAX, 1) != 0)
    fields.fail("has dense layers (first_k_dense_replace > 0); experts are removed where every layer has them");
  if (qwen && (fields.integer("decoder_sparse_step", 1, INT32_MAX, 1) != 1 || !fields.list_or_empty("mlp_only_layers").empty()))
    fields.fail("has dense layers (decoder_sparse_step, mlp_only_layers); experts are removed where every layer has them");
  const std::string key = qwen && fields.has("num_local_experts") ? "num_local_experts" : std::string(kind->experts_key);
  return {fields.integer("num_hidden_layers", 1, INT32_MAX), fields.integer(key, 1, INT32_MAX),
          fields.integer("num_experts_per_tok", 0, INT32_MAX), !qwen, key};
}

int64_t write_without_experts(const Checkpoint& model, const RouterCounts& counts, const std::vector<LayerDrop>& drops,
                              WeightDType asked, OutputFolder& folder) {
  std::vector<LayerPlaces> places;
  for (const LayerDrop& drop : drops) {
    LayerPlaces& layer = places.emplace_back();
    for (const int64_t e : drop.places) layer.push_back(e >= 0 ? std::vector<ExpertShare>{{e}} : std::vector<ExpertShare>{});
  }
  return write_experts(model, &counts, places, asked, folder);
}

int64_t write_experts(const Checkpoint& model, const RouterCounts* counts, const std::vector<LayerPlaces>& places, WeightDType asked,
                      OutputFolder& folder) {
  const RoutedExperts given = read_routed_experts(model);
  OVERPROOF_CHECK(int64_t(places.size()) == given.layers && (!counts || (counts->layers == given.layers && counts->experts == given.experts)));
  const auto has_empty = [](const LayerPlaces& layer) { return std::ranges::any_of(layer, [](const auto& shares) { return shares.empty(); }); };
  if (!given.biased && std::ranges::any_of(places, has_empty))
    throw MismatchError(
        "layers would keep different numbers of experts, and the router of this model type has no bias that shuts empty places; remove as "
        "many from each layer (prune-source: uneven = rank)");
  const DType dtype = written_dtype(asked, model);
  std::vector<Plan> plans = plan_tensors(model, places, given);
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
    write_planned(*model.tensors, plan, writer);
    progress.update(done += plan.out.bytes());
  }
  writer.close();

  int64_t least_left = given.experts;
  for (const LayerPlaces& layer : places)
    least_left = std::min(least_left, int64_t(layer.size()) - std::ranges::count_if(layer, [](const auto& shares) { return shares.empty(); }));
  const int64_t top_k = std::min(given.top_k, least_left);
  Json config = *model.config;
  config[given.experts_key] = places.front().size();
  config["num_experts_per_tok"] = top_k;
  if (asked != WeightDType::automatic) set_stored_dtype(config, dtype);
  write_pruned_config(model.path, config, folder);
  if (counts) write_router_counts(folder, counts_of_the_rest(*counts, places));
  return top_k;
}

}  // namespace overproof
