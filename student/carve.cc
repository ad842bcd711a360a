#include "student/carve.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <limits>

#include "core/error.h"
#include "formats/canonical_tensors.h"
#include "formats/tensor_name.h"
#include "model/host_values.h"
#include "student/carve_trial.h"
#include "student/clusters.h"
#include "student/ffn.h"
#include "student/router_fit.h"

namespace overproof {
namespace {

// Output norms of the routed experts: || sum_{j in e} h_j down[:, j] ||, [tokens, experts].
at::Tensor expert_norms(const at::Tensor& activations, const at::Tensor& down, const at::Tensor& neurons, int64_t experts,
                        int64_t width) {
  const int64_t first = neurons.size(0) - experts * width;
  at::Tensor norms = at::empty({activations.size(0), experts});
  for (int64_t e = 0; e < experts; ++e) {
    const at::Tensor members = neurons.narrow(0, first + e * width, width);
    norms.select(1, e).copy_(at::matmul(activations.index_select(1, members), down.index_select(1, members).t()).norm(2, {1}));
  }
  return norms;
}

// Relative squared error of the FFN output when only neurons with mask 1 are used. mask [tokens, ff] or [ff].
double output_error(const at::Tensor& activations, const at::Tensor& down, const at::Tensor& mask) {
  const double whole = sum_of_squares(at::matmul(activations, down.t()));
  return whole > 0 ? sum_of_squares(at::matmul(activations * (1 - mask), down.t())) / whole : 0.0;
}

// [tokens, experts] choice -> [tokens, ff] neurons computed, shared ones always.
at::Tensor neuron_mask(const at::Tensor& chosen, const at::Tensor& neurons, int64_t width) {
  const int64_t tokens = chosen.size(0), routed = chosen.size(1) * width, shared = neurons.size(0) - routed;
  const at::Tensor in_order = at::cat({at::ones({tokens, shared}), chosen.repeat_interleave(width, 1)}, 1);
  return at::empty_like(in_order).index_copy_(1, neurons, in_order);
}

double recall_of(const at::Tensor& chosen, const at::Tensor& wanted) {
  return (chosen * wanted).sum(at::kDouble).item<double>() / wanted.sum(at::kDouble).item<double>();
}

CarveQuality measure(const LayerCarving& carving, const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& input,
                     const at::Tensor& importance, const at::Tensor& analytic, const CarveOptions& options) {
  const int64_t width = carving.neurons.size(0) / (options.experts + options.shared);
  const at::Tensor activations = neuron_activations(gate_up, input);
  const at::Tensor best = largest(expert_norms(activations, down, carving.neurons, options.experts, width), options.top_k);
  const at::Tensor chosen = choose({carving.gate, carving.bias}, input, options.top_k);

  const int64_t ff = carving.neurons.size(0), routed = options.experts * width;
  const at::Tensor gate_rows = gate_up.narrow(0, 0, ff).index_select(0, carving.neurons.narrow(0, ff - routed, routed));
  const RouterFit centroid{gate_rows.view({options.experts, width, -1}).mean(1), at::zeros({options.experts})};
  const at::Tensor always = largest(importance.unsqueeze(0), (options.top_k + options.shared) * width).squeeze(0);

  CarveQuality quality;
  if (analytic.defined()) {
    const at::Tensor taken = largest(analytic, options.top_k);
    quality.analytic_recall = recall_of(taken, best);
    quality.analytic_error = output_error(activations, down, neuron_mask(taken, carving.neurons, width));
  }
  quality.recall = recall_of(chosen, best);
  quality.centroid_recall = recall_of(choose(centroid, input, options.top_k), best);
  quality.router_error = output_error(activations, down, neuron_mask(chosen, carving.neurons, width));
  quality.oracle_error = output_error(activations, down, neuron_mask(best, carving.neurons, width));
  quality.static_error = output_error(activations, down, always);
  quality.load_spread = chosen.mean(0).max().item<double>() * double(options.experts) / double(options.top_k);
  return quality;
}

using Part = TensorName::Part;

bool has_bias(const CarveOptions& options) { return options.profile != StudentProfile::qwen2_moe; }

bool is_dense_ffn(std::string_view name) { return name.find(".mlp.") != std::string_view::npos; }

/// Rows of unit length by which the neurons `routed` are clustered, f32 [routed, tokens].
at::Tensor cluster_profiles(const at::Tensor& contributions, const at::Tensor& routed, ClusterBy by) {
  at::Tensor profiles = contributions.index_select(1, routed).t().contiguous();
  if (by == ClusterBy::coactivation) {
    const int64_t often = std::max<int64_t>(1, profiles.size(1) / 10);
    profiles = largest(profiles, often);
  }
  return profiles.div_(profiles.norm(2, {1}, true).clamp_min(1e-20));
}

LayerCarving cluster_neurons(const at::Tensor& contributions, const at::Tensor& importance, const CarveOptions& options,
                             int64_t layer, ClusterBy by) {
  const int64_t ff = importance.size(0), width = ff / (options.experts + options.shared);
  const at::Tensor by_importance = std::get<1>(importance.sort(/*stable=*/true, 0, /*descending=*/true));
  LayerCarving carving;
  carving.shared_neurons = options.shared * width;
  carving.top_k = options.top_k;
  const at::Tensor routed = std::get<0>(by_importance.narrow(0, carving.shared_neurons, ff - carving.shared_neurons).sort());
  const std::vector<int64_t> cluster = balanced_kmeans(cluster_profiles(contributions, routed, by), options.experts,
                                                       options.clustering_iterations, uint64_t(options.seed), uint64_t(layer));
  const at::Tensor by_cluster = std::get<1>(at::tensor(cluster).sort(/*stable=*/true, 0, /*descending=*/false));
  carving.neurons =
      at::cat({std::get<0>(by_importance.narrow(0, 0, carving.shared_neurons).sort()), routed.index_select(0, by_cluster)});
  return carving;
}

/// The layer carved by a published method, with its own router unless the options ask for a fitted one. `analytic` gets what its router scores
/// experts by on all tokens, where that is not linear. activations: of all tokens; the first `fitted` may be used.
LayerCarving carve_as_published(const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& input, const at::Tensor& activations,
                                int64_t fitted, const CarveOptions& options, int64_t layer, at::Tensor& analytic) {
  const SplitOptions with{.experts = options.experts,
                          .shared = options.shared,
                          .iterations = options.clustering_iterations,
                          .active = options.active,
                          .window = options.window,
                          .seed = uint64_t(options.seed),
                          .layer = uint64_t(layer)};
  const at::Tensor own = activations.narrow(0, 0, fitted), train_input = input.narrow(0, 0, fitted);
  const NeuronSplit split = split_neurons(options.method, gate_up, train_input, own, with);
  LayerCarving carving;
  carving.neurons = split.neurons;
  carving.specialised = split.specialised;
  carving.shared_neurons = down.size(1) / (options.experts + options.shared) * options.shared;
  carving.top_k = options.top_k;
  RouterFit fit;
  if (split.gate.defined() && !options.fitted_router) {
    const double size = at::matmul(train_input, split.gate.t()).square().mean().sqrt().item<double>();
    fit = {split.gate * (size > 0 ? options.router_scale / size : 0.0), at::zeros({options.experts})};
  } else if (split.representatives.defined() && !options.fitted_router) {
    analytic = activations.index_select(1, split.representatives).abs();
    fit = fit_router(train_input, analytic.narrow(0, 0, fitted), {options.top_k, options.ridge, /*steps=*/0, options.router_scale, 0, has_bias(options)});
  } else {
    const int64_t width = down.size(1) / (options.experts + options.shared);
    fit = fit_router(train_input, expert_norms(own, down, carving.neurons, options.experts, width),
                     {options.top_k, options.ridge, options.ranking_steps, options.router_scale, options.most_load, has_bias(options)});
  }
  carving.gate = fit.gate;
  carving.bias = fit.bias;
  return carving;
}

}  // namespace

std::string_view cluster_name(ClusterBy by) { return by == ClusterBy::contribution ? "contribution" : "coactivation"; }

LayerCarving carve_layer(const at::Tensor& gate_up, const at::Tensor& down, const at::Tensor& input, const CarveOptions& options,
                         int64_t layer) {
  const int64_t ff = down.size(1), width = ff / (options.experts + options.shared);
  OVERPROOF_CHECK(ff % (options.experts + options.shared) == 0 && !options.clusters.empty());
  const int64_t tokens = input.size(0), fitted = std::max<int64_t>(1, tokens - tokens / 4);
  const at::Tensor train_input = input.narrow(0, 0, fitted), all_activations = neuron_activations(gate_up, input);
  const at::Tensor activations = all_activations.narrow(0, 0, fitted);
  const at::Tensor contributions = neuron_contributions(activations.clone(), down);
  const at::Tensor importance = contributions.mean(0);
  const CarveTrial trial(all_activations, down, input, fitted, options);

  LayerCarving best;
  std::vector<CarveAttempt> attempts;
  double least = std::numeric_limits<double>::infinity();
  at::Tensor analytic;
  const auto attempt = [&](LayerCarving carving, std::string_view split, int64_t most_refits) {
    for (int64_t refits = 0; refits <= most_refits; ++refits) {
      const Recovered recovered = trial.recover(carving);
      attempts.push_back({split, refits, recovered.error, recovered.oracle});
      if (recovered.error < least) {
        least = recovered.error;
        best = carving;
        best.best = attempts.size() - 1;
      }
      if (refits < most_refits) carving = trial.refit(carving, recovered);
    }
  };
  if (options.method != CarveMethod::clusters)
    attempt(carve_as_published(gate_up, down, input, all_activations, fitted, options, layer, analytic), method_name(options.method),
            options.fitted_router ? options.refits : 0);
  else
    for (const ClusterBy by : options.clusters) {
      LayerCarving carving = cluster_neurons(contributions, importance, options, layer, by);
      const at::Tensor norms = expert_norms(activations, down, carving.neurons, options.experts, width);
      const RouterFit fit = fit_router(train_input, norms,
                                       {options.top_k, options.ridge, options.ranking_steps, options.router_scale, options.most_load, has_bias(options)});
      carving.gate = fit.gate;
      carving.bias = fit.bias;
      attempt(std::move(carving), cluster_name(by), options.refits);
    }
  best.attempts = std::move(attempts);
  const at::Tensor unseen = fitted < tokens ? input.narrow(0, fitted, tokens - fitted) : input;
  if (analytic.defined() && fitted < tokens) analytic = analytic.narrow(0, fitted, tokens - fitted);
  best.quality = measure(best, gate_up, down, unseen, importance, analytic, options);
  return best;
}

ModelConfig carved_config(const ModelConfig& teacher, const CarveOptions& options) {
  const int64_t parts = options.experts + options.shared;
  if (teacher.intermediate_size % parts != 0)
    throw UsageError(fmt::format("experts + shared = {} + {} does not divide the teacher's FFN width {}", options.experts,
                                 options.shared, teacher.intermediate_size));
  if (options.top_k > options.experts)
    throw UsageError(fmt::format("top-k {} is more than the {} routed experts", options.top_k, options.experts));
  ModelConfig config = carved_shape(teacher, resolve_profile(teacher, options.profile), options.experts, options.shared, options.top_k);
  config.tie_embeddings = options.tie;
  return config;
}

CarvedTensors::CarvedTensors(LayerStream& teacher, const ModelConfig& config, const std::vector<LayerCarving>& layers)
    : source_(*teacher.checkpoint().tensors), teacher_(teacher), config_(config), layers_(layers) {
  for (const TensorInfo& info : source_.tensors())
    if (!is_dense_ffn(info.name) && !(config.tie_embeddings && info.name == "lm_head.weight"))
      infos_.push_back({info.name, DType::f32, info.shape});
  if (!config.tie_embeddings && !source_.find("lm_head.weight"))
    infos_.push_back({"lm_head.weight", DType::f32, {config.vocab_size, config.hidden_size}});
  const int64_t width = config.moe_intermediate_size, hidden = config.hidden_size;
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string mlp = fmt::format("model.layers.{}.mlp.", l);
    const auto add_expert = [&](const std::string& prefix, int64_t neurons) {
      infos_.push_back({prefix + "gate_proj.weight", DType::f32, {neurons, hidden}});
      infos_.push_back({prefix + "up_proj.weight", DType::f32, {neurons, hidden}});
      infos_.push_back({prefix + "down_proj.weight", DType::f32, {hidden, neurons}});
    };
    infos_.push_back({mlp + "gate.weight", DType::f32, {config.n_routed_experts, hidden}});
    if (config.expert_scores == ExpertScores::sigmoid)
      infos_.push_back({mlp + "gate.e_score_correction_bias", DType::f32, {config.n_routed_experts}});
    if (config.shared_gate) infos_.push_back({mlp + "shared_expert_gate.weight", DType::f32, {1, hidden}});
    if (config.shared_width() > 0)
      add_expert(fmt::format("model.layers.{}.{}", l, shared_experts_module(config.shared_gate)), config.shared_width());
    for (int64_t e = 0; e < config.n_routed_experts; ++e) add_expert(fmt::format("{}experts.{}.", mlp, e), width);
  }
}

at::Tensor CarvedTensors::carved(const TensorName& parsed) const {
  if (parsed.in_decoder() && parsed.rest == "mlp.shared_expert_gate.weight") return at::zeros({1, config_.hidden_size});
  const bool routes = parsed.part == Part::router || parsed.part == Part::router_bias;
  if (!parsed.in_decoder() || parsed.bias || !(routes || (parsed.is_ffn() && (parsed.expert >= 0 || parsed.shared)))) return {};
  const LayerCarving& carving = layers_.at(size_t(parsed.layer));
  if (routes) return parsed.part == Part::router ? carving.gate : carving.bias;
  const int64_t width = config_.moe_intermediate_size, shared = config_.shared_width();
  const at::Tensor neurons =
      parsed.expert < 0 ? carving.neurons.narrow(0, 0, shared) : carving.neurons.narrow(0, shared + parsed.expert * width, width);
  const LayerWeights& dense = teacher_.at(parsed.layer).layers().at(size_t(parsed.layer));
  if (parsed.part == Part::down) {
    const FoldedFactors factors = folded_factors(config_);
    return dense.down.index_select(1, neurons).mul_(parsed.expert < 0 ? factors.shared : factors.routed);
  }
  const int64_t ff = dense.down.size(1);
  return dense.gate_up.narrow(0, parsed.part == Part::gate ? 0 : ff, ff).index_select(0, neurons);
}

void CarvedTensors::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  at::NoGradGuard no_grad;
  const bool from_embedding = name == "lm_head.weight" && teacher_.config().tie_embeddings;
  const at::Tensor tensor = carved(TensorName::parse(name));
  if (!tensor.defined()) return source_.read_f32(from_embedding ? "model.embed_tokens.weight" : name, first_row, rows, out);
  const at::Tensor part = tensor.narrow(0, first_row, rows).contiguous();
  OVERPROOF_CHECK(int64_t(out.size()) == part.numel());
  std::ranges::copy(host_values<float>(part), out.begin());
}

}  // namespace overproof
