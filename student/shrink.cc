#include "student/shrink.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "formats/tensor_name.h"
#include "model/host_values.h"

namespace overproof {
namespace {

using at::Tensor;

/// Adds the squares of the windows' mean |values|. values [windows x length, n]; sums F64 [n].
void add_windows(Tensor sums, const Tensor& values, int64_t windows) {
  const int64_t n = values.size(-1);
  sums.add_(values.view({windows, -1, n}).abs().mean(1, false, at::kDouble).square().sum(0));
}

/// The `count` largest, ascending; of equal ones the first.
Tensor largest_parts(const Tensor& importance, int64_t count, const char* what) {
  if (count < 1 || count > importance.size(0))
    throw UsageError(fmt::format("{} {} cannot be kept: there are {}", count, what, importance.size(0)));
  const Tensor ranked = std::get<1>(importance.sort(/*stable=*/true, 0, /*descending=*/true));
  return std::get<0>(ranked.narrow(0, 0, count).sort());
}

/// Rows of heads: [head x width, (head + 1) x width) for each.
Tensor rows_of(const Tensor& heads, int64_t width) {
  return (heads.unsqueeze(1) * width + at::arange(width, at::kLong)).flatten();
}

}  // namespace

ImportanceMeter::ImportanceMeter(const Decoder& model) : model_(model) {
  const ModelConfig& c = model.config();
  OVERPROOF_CHECK(!c.is_moe());
  cosines_.assign(size_t(c.layers), 0.0);
  for (int64_t l = 0; l < c.layers; ++l) {
    neurons_.push_back(at::zeros({c.intermediate_size}, at::kDouble));
    heads_.push_back(at::zeros({c.heads}, at::kDouble));
  }
  dimensions_ = at::zeros({2 * c.layers + 1, c.hidden_size}, at::kDouble);
}

void ImportanceMeter::add(const Tensor& ids, const Tensor& segments) {
  at::NoGradGuard no_grad;
  const ModelConfig& c = model_.config();
  const int64_t windows = ids.size(0);
  Tensor x = model_.embed(ids);
  for (int64_t l = 0; l < c.layers; ++l) {
    AttentionInputs seen;
    const Tensor attended = model_.attention_block(l, x, windows, &seen, segments);
    add_windows(dimensions_[2 * l], seen.qkv.to(at::kFloat), windows);
    add_windows(heads_[size_t(l)], seen.o.to(at::kFloat).view({-1, c.heads, c.head_dim}).norm(2, {2}), windows);
    const Tensor input = model_.ffn_input(l, attended);
    add_windows(dimensions_[2 * l + 1], input.to(at::kFloat), windows);
    const FfnPass pass = model_.ffn_pass(l, kDenseFfn, input);
    add_windows(neurons_[size_t(l)], pass.activation.to(at::kFloat), windows);
    const Tensor after = attended + pass.out;
    const Tensor cosine = (x * after).sum(1) / (x.norm(2, {1}) * after.norm(2, {1})).clamp_min(1e-20);
    cosines_[size_t(l)] += cosine.sum(at::kDouble).item<double>();
    x = after;
  }
  const Tensor scale = (x.square().mean(1, true) + c.rms_norm_eps).rsqrt();
  add_windows(dimensions_[2 * c.layers], x * scale * model_.weights().final_norm, windows);
  tokens_ += ids.numel();
}

PartImportance ImportanceMeter::result() const {
  OVERPROOF_CHECK(tokens_ > 0);
  const ModelConfig& c = model_.config();
  PartImportance found;
  for (int64_t l = 0; l < c.layers; ++l) {
    found.layers.push_back(1 - cosines_[size_t(l)] / double(tokens_));
    found.neurons.push_back(neurons_[size_t(l)].sqrt());
    found.kv_heads.push_back(heads_[size_t(l)].sqrt().view({c.kv_heads, c.heads / c.kv_heads}).sum(1));
  }
  found.dimensions = dimensions_.sqrt().sum(0);
  return found;
}

KeptParts most_important(const PartImportance& importance, const PartCounts& counts) {
  KeptParts kept;
  const Tensor layers = largest_parts(at::tensor(importance.layers, at::kDouble), counts.layers, "layers");
  const std::span<const int64_t> numbers = host_values<int64_t>(layers);
  kept.layers.assign(numbers.begin(), numbers.end());
  for (size_t l = 0; l < importance.layers.size(); ++l) {
    kept.neurons.push_back(largest_parts(importance.neurons[l], counts.neurons, "FFN neurons"));
    kept.kv_heads.push_back(largest_parts(importance.kv_heads[l], counts.kv_heads, "key and value heads"));
  }
  kept.dimensions = largest_parts(importance.dimensions, counts.dimensions, "dimensions");
  return kept;
}

ModelConfig shrunk_config(const ModelConfig& parent, const PartCounts& counts) {
  ModelConfig c = parent;
  c.layers = counts.layers;
  c.intermediate_size = counts.neurons;
  c.heads = parent.heads / parent.kv_heads * counts.kv_heads;
  c.kv_heads = counts.kv_heads;
  c.hidden_size = counts.dimensions;
  return c;
}

ShrunkTensors::ShrunkTensors(const TensorSource& parent_tensors, const ModelConfig& parent, const ModelConfig& shape, const KeptParts& kept,
                             const Tensor& head)
    : source_(parent_tensors), parent_(parent), kept_(kept), head_(head) {
  const auto add = [&](std::string name, Cut cut, std::vector<int64_t> sizes) {
    if (cut.rows.defined()) sizes[0] = cut.rows.size(0);
    if (cut.columns.defined()) sizes[1] = cut.columns.size(0);
    infos_.push_back({name, DType::f32, std::move(sizes)});
    cuts_.emplace_back(std::move(name), std::move(cut));
  };
  for (const TensorInfo& info : source_.tensors()) {
    if (info.name == "lm_head.weight") continue;
    const TensorName parsed = TensorName::parse(info.name);
    std::string name = info.name;
    if (parsed.in_decoder()) {
      const auto place = std::ranges::find(kept.layers, parsed.layer);
      if (place == kept.layers.end()) continue;
      name = fmt::format("model.layers.{}.{}", place - kept.layers.begin(), parsed.rest);
    }
    add(std::move(name), cut_of(info.name), info.shape);
  }
  if (!shape.tie_embeddings) add("lm_head.weight", {"lm_head.weight", {}, kept.dimensions}, {parent.vocab_size, parent.hidden_size});
  std::ranges::sort(cuts_, {}, &std::pair<std::string, Cut>::first);
}

ShrunkTensors::Cut ShrunkTensors::cut_of(std::string_view name) const {
  using Part = TensorName::Part;
  const TensorName parsed = TensorName::parse(name);
  const Tensor& dimensions = kept_.dimensions;
  const std::string source(name);
  if (!parsed.in_decoder()) return name == "model.norm.weight" ? Cut{source, dimensions, {}} : Cut{source, {}, dimensions};
  const auto layer = size_t(parsed.layer);
  const Tensor neurons = kept_.neurons[layer], groups = kept_.kv_heads[layer];
  const int64_t of_group = parent_.heads / parent_.kv_heads * parent_.head_dim;
  const auto rows = [&](const Tensor& picked) { return parsed.bias ? Cut{source, picked, {}} : Cut{source, picked, dimensions}; };
  switch (parsed.part) {
    case Part::q:
      return rows(rows_of(groups, of_group));
    case Part::k:
    case Part::v:
      return rows(rows_of(groups, parent_.head_dim));
    case Part::gate:
    case Part::up:
      return rows(neurons);
    case Part::o:
      return {source, dimensions, rows_of(groups, of_group)};
    case Part::down:
      return {source, dimensions, neurons};
    default:
      break;
  }
  if (parsed.rest.starts_with("self_attn.")) return {source, {}, {}};  // norms of queries and keys, of a head's width
  return {source, dimensions, {}};
}

Tensor ShrunkTensors::source_rows(const Cut& cut, int64_t first, int64_t count) const {
  if (cut.source == "lm_head.weight") return head_.narrow(0, first, count);
  const TensorInfo* info = source_.find(cut.source);
  OVERPROOF_CHECK(info != nullptr);
  std::vector<int64_t> sizes = info->shape;
  sizes[0] = count;
  Tensor tensor = at::empty(sizes, at::kFloat);
  const std::span<float> values = mutable_host_values<float>(tensor);
  if (!cut.rows.defined()) {
    source_.read_f32(cut.source, first, count, values);
    return tensor;
  }
  const size_t width = values.size() / size_t(count);
  const std::span<const int64_t> picked = host_values<int64_t>(cut.rows);
  for (int64_t r = 0; r < count; ++r)
    source_.read_f32(cut.source, picked[size_t(first + r)], 1, values.subspan(size_t(r) * width, width));
  return tensor;
}

// Called by several threads at a time.
void ShrunkTensors::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  at::NoGradGuard no_grad;
  const auto found = std::ranges::lower_bound(cuts_, name, {}, [](const auto& cut) { return std::string_view(cut.first); });
  OVERPROOF_CHECK(found != cuts_.end() && found->first == name);
  Tensor part = source_rows(found->second, first_row, rows);
  if (found->second.columns.defined()) part = part.index_select(1, found->second.columns);
  part = part.contiguous();
  OVERPROOF_CHECK(int64_t(out.size()) == part.numel());
  std::ranges::copy(host_values<float>(part), out.begin());
}

}  // namespace overproof
