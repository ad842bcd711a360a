#include "student/upcycle.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "formats/student_profile.h"
#include "formats/tensor_name.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// Rows [first, first + rows) of the router: one row a copy, repeated for its parts.
at::Tensor router_rows(const UpcycleOptions& options, int64_t hidden, int64_t layer) {
  at::Tensor of_copies = at::empty({options.copies, hidden});
  Rng rng(options.seed, "upcycle/router", uint64_t(layer));
  for (float& value : mutable_host_values<float>(of_copies)) value = float(options.router_deviation * rng.normal());
  return of_copies.repeat_interleave(options.split, 0);
}

/// `picked` rows of `matrix` [rows, columns], drawn anew.
void redraw_rows(at::Tensor& matrix, const at::Tensor& picked, Rng& rng) {
  const at::Tensor old = matrix.index_select(0, picked).to(at::kDouble);
  const double mean = old.mean().item<double>(), deviation = old.numel() > 1 ? old.std().item<double>() : 0.0;
  at::Tensor drawn = at::empty({picked.size(0), matrix.size(1)});
  for (float& value : mutable_host_values<float>(drawn)) value = float(mean + deviation * rng.normal());
  matrix.index_copy_(0, picked, drawn);
}

}  // namespace

ModelConfig upcycled_config(const ModelConfig& parent, const UpcycleOptions& options) {
  if (parent.intermediate_size % options.split != 0)
    throw UsageError(fmt::format("option 'split': {} does not divide the parent's FFN width {}", options.split, parent.intermediate_size));
  const int64_t experts = options.copies * options.split;
  if (experts < 2 || experts > 65536)
    throw UsageError(fmt::format("copies x split = {} x {} are {} experts; a mixture has 2 to 65536", options.copies, options.split, experts));
  if (options.top_k < 1 || options.top_k > experts)
    throw UsageError(fmt::format("option 'top-k': {} is not between 1 and the {} experts", options.top_k, experts));
  if (const std::string cause = why_not_upcycled(parent); !cause.empty()) throw MismatchError("the parent cannot be upcycled: " + cause);
  ModelConfig config = parent;
  config.model_type = "glm4_moe";
  config.tie_embeddings = options.tie;
  config.n_routed_experts = experts;
  config.n_shared_experts = 0;
  config.moe_intermediate_size = parent.intermediate_size / options.split;
  config.top_k = options.top_k;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = double(std::min(options.top_k, options.split));
  return config;
}

ExpertWeights with_redrawn(ExpertWeights expert, double drop, uint64_t seed, uint64_t stream) {
  const int64_t width = expert.gate.size(0), count = int64_t(double(width) * drop);
  if (count == 0) return expert;
  Rng rng(seed, "upcycle/drop", stream);
  std::vector<int64_t> neurons(static_cast<size_t>(width));
  for (int64_t i = 0; i < width; ++i) neurons[size_t(i)] = i;
  for (int64_t i = 0; i < count; ++i) std::swap(neurons[size_t(i)], neurons[size_t(i + int64_t(rng.below(uint64_t(width - i))))]);
  neurons.resize(size_t(count));
  std::ranges::sort(neurons);
  const at::Tensor picked = at::tensor(neurons);
  expert.gate = expert.gate.clone();
  expert.up = expert.up.clone();
  at::Tensor down = expert.down.t().contiguous();
  redraw_rows(expert.gate, picked, rng);
  redraw_rows(expert.up, picked, rng);
  redraw_rows(down, picked, rng);
  expert.down = down.t();
  return expert;
}

UpcycledTensors::UpcycledTensors(const TensorSource& parent_tensors, const Decoder& parent, const ModelConfig& config,
                                 const UpcycleOptions& options)
    : source_(parent_tensors), parent_(parent), config_(config), options_(options) {
  for (const TensorInfo& info : source_.tensors())
    if (info.name.find(".mlp.") == std::string::npos && !(config.tie_embeddings && info.name == "lm_head.weight"))
      infos_.push_back({info.name, DType::f32, info.shape});
  if (!config.tie_embeddings && !source_.find("lm_head.weight"))
    infos_.push_back({"lm_head.weight", DType::f32, {config.vocab_size, config.hidden_size}});
  const int64_t width = config.moe_intermediate_size, hidden = config.hidden_size;
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string mlp = fmt::format("model.layers.{}.mlp.", l);
    infos_.push_back({mlp + "gate.weight", DType::f32, {config.n_routed_experts, hidden}});
    infos_.push_back({mlp + "gate.e_score_correction_bias", DType::f32, {config.n_routed_experts}});
    for (int64_t e = 0; e < config.n_routed_experts; ++e) {
      const std::string expert = fmt::format("{}experts.{}.", mlp, e);
      infos_.push_back({expert + "gate_proj.weight", DType::f32, {width, hidden}});
      infos_.push_back({expert + "up_proj.weight", DType::f32, {width, hidden}});
      infos_.push_back({expert + "down_proj.weight", DType::f32, {hidden, width}});
    }
  }
}

at::Tensor UpcycledTensors::made(std::string_view name) const {
  using Part = TensorName::Part;
  const TensorName parsed = TensorName::parse(name);
  if (!parsed.in_decoder() || parsed.bias) return {};
  if (parsed.part == Part::router) return router_rows(options_, config_.hidden_size, parsed.layer);
  if (parsed.part == Part::router_bias) return at::zeros({config_.n_routed_experts});
  if (!parsed.is_ffn() || parsed.expert < 0) return {};
  const LayerWeights& dense = parent_.layers().at(size_t(parsed.layer));
  const int64_t width = config_.moe_intermediate_size, ff = dense.down.size(1), first = parsed.expert % options_.split * width;
  ExpertWeights expert{dense.gate_up.narrow(0, first, width), dense.gate_up.narrow(0, ff + first, width), dense.down.narrow(1, first, width)};
  const uint64_t stream = uint64_t(parsed.layer) * uint64_t(config_.n_routed_experts) + uint64_t(parsed.expert);
  if (options_.drop > 0) expert = with_redrawn(std::move(expert), options_.drop, options_.seed, stream);
  return parsed.part == Part::down ? expert.down : parsed.part == Part::gate ? expert.gate : expert.up;
}

void UpcycledTensors::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  at::NoGradGuard no_grad;
  const at::Tensor tensor = name == "lm_head.weight" ? parent_.head() : made(name);  // head(): the embedding when tied
  if (!tensor.defined()) return source_.read_f32(name, first_row, rows, out);
  const at::Tensor part = tensor.narrow(0, first_row, rows).contiguous();
  OVERPROOF_CHECK(int64_t(out.size()) == part.numel());
  std::ranges::copy(host_values<float>(part), out.begin());
}

}  // namespace overproof
