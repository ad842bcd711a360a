#include "prune/expert_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "formats/architecture.h"
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

/// "model.layers.3.mlp.experts.5.up_proj.weight" of another expert of the layer.
std::string of_expert(const TensorName& name, std::string_view whole, int64_t expert) {
  constexpr std::string_view kList = ".experts.";
  const std::string_view list = name.expert_prefix.substr(0, name.expert_prefix.rfind(kList) + kList.size());
  return fmt::format("{}{}.{}", list, expert, whole.substr(name.expert_prefix.size()));
}

class TensorPlans {
 public:
  TensorPlans(const Checkpoint& model, const RoutedExperts& given, const std::vector<LayerPlaces>& places)
      : model_(model), architecture_(*model.config), given_(given), places_(places) {}

  std::vector<Plan> all() && {
    for (const TensorInfo& info : model_.tensors->tensors()) add(info);
    const int64_t with = given_.layers_with();
    // What is fused is gate and up in one tensor, and down.
    if (2 * experts_ + 3 * given_.experts * fused_ != 6 * with * given_.experts || routers_ != with || (biases_ != 0 && biases_ != with))
      fail("weights of experts or routers are missing");
    if (biases_ == 0 && std::ranges::any_of(places_, [](const LayerPlaces& layer) { return std::ranges::any_of(layer, &std::vector<ExpertShare>::empty); }))
      throw MismatchError(
          "layers would keep different numbers of experts, and the router of this model type has no bias that shuts empty places; remove as "
          "many from each layer (prune-source: uneven = rank)");
    return std::move(plans_);
  }

 private:
  [[noreturn]] void fail(const std::string& cause) const { throw FormatError(model_.path, -1, cause); }

  void add(const TensorInfo& info) {
    const TensorName name = TensorName::parse(info.name);
    const TensorRole role = architecture_.role(info);
    if (role == TensorRole::mtp && given_.predicting_layers > 0) return;
    if (name.in_decoder() && name.layer >= given_.layers) fail(fmt::format("{}: the configuration has {} layers", info.name, given_.layers));
    const bool router = role == TensorRole::router && !name.rest.starts_with("mlp.shared_expert_gate.");
    const bool of_experts = router || role == TensorRole::expert_linear || role == TensorRole::fused_experts || role == TensorRole::router_bias;
    if (!of_experts) return plans_.push_back({info, info});
    if (!name.in_decoder() || !given_.present[size_t(name.layer)])
      fail(fmt::format("{}: the configuration has no experts in this layer", info.name));
    if (role == TensorRole::expert_linear) return add_expert(info, name);
    if (info.shape.empty() || info.shape[0] != given_.experts)
      fail(fmt::format("{} does not have the {} experts of the configuration", info.name, given_.experts));
    Plan plan{info, info};
    plan.rows = &places_[size_t(name.layer)];
    plan.out.shape[0] = int64_t(plan.rows->size());
    if (role == TensorRole::router_bias) plan.empty = kNeverChosen;
    (router ? routers_ : role == TensorRole::router_bias ? biases_ : fused_) += 1;
    plans_.push_back(std::move(plan));
  }

  /// The places that an expert's matrix goes to: the one that it is the first part of, if any. Empty places are written next to the tensors
  /// of expert 0, which have the same shapes.
  void add_expert(const TensorInfo& info, const TensorName& name) {
    if (name.expert >= given_.experts) fail(fmt::format("{}: the configuration has {} experts", info.name, given_.experts));
    ++experts_;
    const LayerPlaces& places = places_[size_t(name.layer)];
    for (size_t p = 0; p < places.size(); ++p) {
      const std::vector<ExpertShare>& shares = places[p];
      if (shares.empty() ? name.expert != 0 : shares.front().expert != name.expert) continue;
      Plan plan{info, info};
      plan.out.name = of_expert(name, info.name, int64_t(p));
      plan.zero = shares.empty();
      if (shares.size() > 1 || (shares.size() == 1 && shares[0].weight != 1))
        for (const ExpertShare& share : shares) {
          plan.parts.emplace_back(of_expert(name, info.name, share.expert), share.weight);
          if (const TensorInfo* other = model_.tensors->find(plan.parts.back().first); !other || other->shape != info.shape)
            fail(fmt::format("{} is missing, or has another shape than {}", plan.parts.back().first, info.name));
        }
      if (!names_.insert(plan.out.name).second) fail(fmt::format("{} occurs twice", info.name));
      plans_.push_back(std::move(plan));
    }
  }

  const Checkpoint& model_;
  Architecture architecture_;
  const RoutedExperts& given_;
  const std::vector<LayerPlaces>& places_;
  std::vector<Plan> plans_;
  std::set<std::string> names_;
  int64_t experts_ = 0, fused_ = 0, routers_ = 0, biases_ = 0;
};

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

int64_t RoutedExperts::layers_with() const { return std::ranges::count_if(present, [](char has) { return has != 0; }); }

RoutedExperts read_routed_experts(const Checkpoint& model) {
  const auto fail = [&](const std::string& cause) { throw FormatError(model.path, -1, cause); };
  if (model.quantization) fail("is quantized; experts are removed from the checkpoint before quantization");
  const ModelConfig config = ModelConfig::from_json(*model.config, model.path);
  if (!config.is_moe()) fail(fmt::format("its model_type is '{}'; routed experts are removed from mixtures of experts", config.model_type));
  if (config.expert_groups > 1)
    fail(fmt::format("its router chooses among {} groups of experts (n_group), which would not be the same ones without some experts", config.expert_groups));
  RoutedExperts found{.layers = config.layers, .experts = config.n_routed_experts, .top_k = config.top_k};
  found.predicting_layers = JsonObject(*model.config, model.path, "", JsonNull::absent).integer("num_nextn_predict_layers", 0, INT32_MAX, 0);
  for (int64_t l = 0; l < config.layers; ++l) found.present.push_back(config.shape_of(l).experts);
  return found;
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
  const DType dtype = written_dtype(asked, model);
  std::vector<Plan> plans = TensorPlans(model, given, places).all();
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

  int64_t least_left = given.experts, kept = given.experts;
  for (size_t l = 0; l < places.size(); ++l) {
    if (!given.present[l]) continue;
    kept = int64_t(places[l].size());
    least_left = std::min(least_left, kept - std::ranges::count_if(places[l], [](const auto& shares) { return shares.empty(); }));
  }
  const int64_t top_k = std::min(given.top_k, least_left);
  Json config = *model.config;
  const ModelKind& kind = *find_model_kind(config["model_type"].get<std::string>());
  config[std::string(experts_key_of(kind, [&](std::string_view key) { return config.contains(key); }))] = kept;
  config["num_experts_per_tok"] = top_k;
  if (given.predicting_layers > 0) config["num_nextn_predict_layers"] = 0;
  if (asked != WeightDType::automatic) set_stored_dtype(config, dtype);
  write_pruned_config(model.path, config, folder);
  if (counts) write_router_counts(folder, counts_of_the_rest(*counts, places));
  return top_k;
}

}  // namespace overproof
