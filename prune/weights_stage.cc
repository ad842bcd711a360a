#include "prune/weights_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/tokenizer_files.h"
#include "formats/architecture.h"
#include "formats/finite_values.h"
#include "formats/sharded.h"
#include "formats/model_check.h"
#include "formats/model_config.h"
#include "formats/quantization_config.h"
#include "formats/tensor_name.h"
#include "prune/picked_rows.h"
#include "records/activation_statistics.h"

namespace overproof {
namespace {

const char* method_name(WeightMethod method) {
  return method == WeightMethod::magnitude ? "magnitude" : method == WeightMethod::wanda ? "wanda" : "sparsegpt";
}

/// Zeros of one layer's pruned weights.
struct ZeroCount {
  int64_t zeros = 0, weights = 0;
  double share() const { return weights > 0 ? double(zeros) / double(weights) : 0.0; }
  void add(std::span<const float> values) {
    weights += int64_t(values.size());
    zeros += std::ranges::count(values, 0.0f);
  }
};

class WeightPruner {
 public:
  WeightPruner(const PruneWeightsConfig& config, const WeightPattern& pattern, const ActivationStatistics* statistics)
      : config_(config), pattern_(pattern), statistics_(statistics) {}

  /// The whole weight [rows, columns], in place.
  void prune(const std::string& name, int64_t rows, int64_t columns, std::span<float> w) {
    if (pattern_.group > 0 && columns % pattern_.group != 0)
      throw MismatchError(fmt::format("{}: its rows of {} weights are no whole groups of {}; use --sparsity with a share", name, columns, pattern_.group));
    if (config_.method == WeightMethod::magnitude) return zero_lowest(w, rows, columns, {}, pattern_, true);
    const std::string* group = statistics_->group_of(name);
    if (!group)
      throw MismatchError(fmt::format("{}: has no statistics of the input of {}", statistics_->path().string(), name));
    if (statistics_->columns(*group) != columns)
      throw MismatchError(fmt::format("{}: the input of {} has {} channels, the weight {} columns", statistics_->path().string(), name,
                                      statistics_->columns(*group), columns));
    if (statistics_->tokens(*group) == 0) return by_magnitude(rows, columns, w);
    if (config_.method == WeightMethod::wanda) return zero_lowest(w, rows, columns, norms(*group), pattern_, false);
    if (const HessianFactor* factor = factor_of(*group, columns)) {
      sparse_gpt(w, rows, *factor, pattern_);
      return;
    }
    by_magnitude(rows, columns, w);
  }
  int64_t by_magnitude() const { return by_magnitude_; }

 private:
  void by_magnitude(int64_t rows, int64_t columns, std::span<float> w) {
    ++by_magnitude_;
    zero_lowest(w, rows, columns, {}, pattern_, false);
  }

  /// ||X_j|| up to a factor that all columns share, which changes no comparison.
  std::vector<float> norms(const std::string& group) const {
    std::vector<float> norms = statistics_->read(group, ActivationStatistics::Parts::small).square;
    if (norms.empty())
      throw MismatchError(fmt::format("{}: has neither mean squares nor Hessians of its inputs, as files of older versions; record them anew with observe --linears",
                                      statistics_->path().string()));
    for (float& x : norms) x = std::sqrt(x);
    return norms;
  }

  /// Neighbouring weights share a factor (q, k and v; gate and up): the last one is kept.
  const HessianFactor* factor_of(const std::string& group, int64_t columns) {
    if (group == group_) return factor_.get();
    if (!statistics_->has_hessian(group))
      throw MismatchError(fmt::format("{}: has no Hessian of '{}'; run observe or activations with --hessians", statistics_->path().string(), group));
    factor_.reset();
    factor_ = hessian_factor(statistics_->read(group, ActivationStatistics::Parts::hessian).hessian, columns, {config_.dampening, false});
    group_ = group;
    return factor_.get();
  }

  const PruneWeightsConfig& config_;
  const WeightPattern& pattern_;
  const ActivationStatistics* statistics_;
  std::string group_;
  std::shared_ptr<const HessianFactor> factor_;
  int64_t by_magnitude_ = 0;
};

}  // namespace

StageReport run_prune_weights(const PruneWeightsConfig& config, const Inputs& inputs, Outputs& outputs) {
  const WeightPattern pattern = WeightPattern::parse(config.sparsity);
  const Checkpoint model = open_checkpoint(inputs.path("model"));
  check_model(model);
  refuse_damaged_tokenizer(model.path);
  if (model.quantization)
    throw FormatError(model.path, -1, "is quantized; weights are pruned in the checkpoint before quantization, and quantize keeps zeros");
  std::optional<ActivationStatistics> statistics;
  if (config.method != WeightMethod::magnitude) {
    if (!inputs.has("statistics"))
      throw UsageError(fmt::format("prune-weights: --statistics is missing; {} needs what observe {} recorded of the same model", method_name(config.method),
                                   config.method == WeightMethod::wanda ? "--linears" : "--hessians"));
    if (fs::is_directory(inputs.path("statistics")) && !fs::exists(inputs.path("statistics") / kActivationsFile))
      throw MismatchError(fmt::format("{}: has no {}; run observe with --linears, or --hessians for sparsegpt",
                                      inputs.path("statistics").filename().string(), kActivationsFile));
    statistics.emplace(inputs.path("statistics"));
    if (statistics->model_root() != inputs.root("model"))
      throw MismatchError(fmt::format("{}: statistics of another model, sha256:{}; run observe on this one", statistics->path().string(),
                                      statistics->model_root().hex()));
  }
  const Architecture architecture(*model.config);
  const DType dtype = written_dtype(config.dtype, model);
  const auto is_pruned = [&](const TensorInfo& tensor) {
    const TensorRole role = architecture.role(tensor);
    return TensorName::parse(tensor.name).in_decoder() && tensor.shape.size() == 2 && (role == TensorRole::linear || role == TensorRole::expert_linear);
  };
  std::vector<TensorInfo> tensors = model.tensors->tensors();
  int64_t bytes = 0, pruned = 0;
  for (TensorInfo& t : tensors) {
    if (architecture.role(t) == TensorRole::fused_experts)
      throw FormatError(model.path, -1, fmt::format("{} holds all experts in one tensor, which is not pruned", t.name));
    pruned += is_pruned(t);
    t.dtype = is_always_f32(t.name) ? DType::f32 : dtype;
    bytes += t.bytes();
  }
  if (pruned == 0) throw FormatError(model.path, -1, "has no Linear weights in its decoder layers");

  ShardedWriter writer(outputs.folder(), tensors);
  Progress progress("prune", bytes, "bytes");
  WeightPruner pruner(config, pattern, statistics ? &*statistics : nullptr);
  std::map<int64_t, ZeroCount> layers;
  ZeroCount all;
  int64_t done = 0;
  for (const TensorInfo& out : tensors) {
    throw_if_interrupted();
    if (is_pruned(out)) {
      std::vector<float> w = model.tensors->read_all_f32(out.name);
      require_finite(w, out.name, 0, out.shape[1], model.path);  // a NaN has no place among magnitudes
      pruner.prune(out.name, out.shape[0], out.shape[1], w);
      require_range(out.dtype, w, out.name);
      layers[TensorName::parse(out.name).layer].add(w);
      all.add(w);
      writer.append_f32(w);
    } else {
      write_rows(*model.tensors, *model.tensors->find(out.name), nullptr, 0, writer);
    }
    progress.update(done += out.bytes());
  }
  writer.close();
  Json written = *model.config;
  set_stored_dtype(written, dtype);
  write_pruned_config(model.path, written, outputs.folder());

  Json shares = Json::array();
  double least = 1, most = 0;
  for (const auto& [layer, count] : layers) {
    shares.push_back({{"layer", layer}, {"zeros", count.share()}, {"weights", count.weights}});
    least = std::min(least, count.share());
    most = std::max(most, count.share());
  }
  StageReport report;
  report.metrics() = {{"method", method_name(config.method)}, {"sparsity", config.sparsity}, {"weights", pruned}, {"zeros", all.share()},
                      {"layers", std::move(shares)},          {"by_magnitude", pruner.by_magnitude()}};
  record_dtype(report.metrics(), dtype);
  report.summary = {fmt::format("{} weights in {} layers pruned by {}, {}: {:.2f} % of them are zero ({:.2f} to {:.2f} % in a layer)", pruned,
                                layers.size(), method_name(config.method), config.sparsity, 100 * all.share(), 100 * least, 100 * most)};
  if (pruner.by_magnitude() > 0)
    report.summary.push_back(fmt::format("{} weights had inputs without tokens or without a usable Hessian and were pruned by magnitude", pruner.by_magnitude()));
  return report;
}

}  // namespace overproof
