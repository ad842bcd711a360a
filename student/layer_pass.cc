#include "student/layer_pass.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "core/interrupt.h"
#include "formats/canonical_tensors.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// The `count` tokens with the highest router score for `expert` among those that are not in `routed` (ascending); the lower token
/// on ties. Returned in ascending order.
std::vector<int64_t> next_best(const at::Tensor& scores, int64_t expert, const std::vector<int64_t>& routed, int64_t count) {
  const int64_t tokens = scores.size(0);
  const at::Tensor column = scores.select(1, expert).contiguous();
  const std::span<const float> score = host_values<float>(column);
  std::vector<int64_t> others(static_cast<size_t>(tokens));
  std::iota(others.begin(), others.end(), 0);
  std::erase_if(others, [&](int64_t t) { return std::ranges::binary_search(routed, t); });
  count = std::min(count, int64_t(others.size()));
  std::partial_sort(others.begin(), others.begin() + count, others.end(), [&](int64_t a, int64_t b) {
    return score[size_t(a)] != score[size_t(b)] ? score[size_t(a)] > score[size_t(b)] : a < b;
  });
  others.resize(size_t(count));
  std::ranges::sort(others);
  return others;
}

/// The Linear modules of the checkpoint that have these canonical ones, each once.
std::vector<std::string> modules_in(const ModelConfig& config, int64_t layer, const std::vector<std::string>& canonical) {
  std::vector<std::string> modules;
  for (const std::string& part : canonical) {
    const std::string stored = stored_module(config, part);
    const std::string name = fmt::format("model.layers.{}.{}", layer, stored);
    if (!stored.empty() && std::ranges::find(modules, name) == modules.end()) modules.push_back(name);
  }
  return modules;
}

void record(const InputRecord& input, ActivationJournal& journal, const std::vector<std::string>& modules, int64_t routed, int64_t forced) {
  if (!modules.empty()) input.file(journal, modules, routed, forced);
}

}  // namespace

LayerPass::LayerPass(LayerStream& model, const LayerPassOptions& options, const SampledWindows& windows, at::Tensor stream, Progress& progress,
                     ActivationJournal* journal, LayerObservers observers)
    : model_(model),
      options_(options),
      windows_(windows),
      length_(windows.ids.size(1)),
      stream_(std::move(stream)),
      progress_(progress),
      journal_(journal),
      observers_(std::move(observers)),
      layers_(journal ? journal->progress() : LayerProgress{}),
      done_(layers_.layers_done * stream_.size(0)) {}

void LayerPass::step() {
  const int64_t layer = layers_.layers_done;
  const Decoder& model = model_.at(layer);
  attention(model, layer);
  if (model.config().shape_of(layer).experts) mixture(model, layer);
  else dense(model, layer);
  ++layers_.layers_done;
  if (journal_) journal_->checkpoint(layers_, host_values<float>(stream_.contiguous()));
}

/// Calls body(first, count) for the rows of each batch of windows.
template <class Body>
void LayerPass::each_batch(int64_t rows, const Body& body) const {
  const int64_t step = options_.batch_size * length_;
  for (int64_t first = 0; first < rows; first += step) {
    throw_if_interrupted();
    body(first, std::min(step, rows - first));
  }
}

std::string LayerPass::note(int64_t layer) const { return fmt::format("layer {} of {}", layer + 1, model_.config().layers); }

void LayerPass::attention(const Decoder& model, int64_t layer) {
  const ModelConfig& c = model.config();
  std::optional<InputRecord> qkv, o, q_b, kv_b;
  if (journal_) {
    qkv.emplace(c.hidden_size, tokens(), options_.record);
    o.emplace(c.heads * c.value_width(), tokens(), options_.record);
    if (c.q_rank > 0) q_b.emplace(c.q_rank, tokens(), options_.record);
    if (c.is_latent()) kv_b.emplace(c.kv_rank, tokens(), options_.record);
  }
  const bool parallel = c.places == NormPlaces::parallel;
  if (parallel) ffn_inputs_ = at::empty_like(stream_);
  each_batch(tokens(), [&](int64_t first, int64_t count) {
    AttentionInputs seen;
    const at::Tensor rows = stream_.narrow(0, first, count);
    if (parallel) ffn_inputs_.narrow(0, first, count).copy_(model.ffn_input(layer, rows));
    rows.copy_(model.attention_block(layer, rows, count / length_, &seen, windows_.segments_of(first / length_, count / length_)));
    if (qkv) qkv->add(seen.qkv);
    if (o) o->add(seen.o);
    if (q_b) q_b->add(seen.q_b);
    if (kv_b) kv_b->add(seen.kv_b);
    progress_.update(done_ += count / 2, note(layer));
  });
  if (!journal_) return;
  const auto file = [&](const InputRecord& input, const std::vector<std::string>& canonical) {
    record(input, *journal_, modules_in(c, layer, canonical), tokens(), 0);
  };
  if (!c.is_latent()) file(*qkv, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
  else file(*qkv, {q_b ? "self_attn.q_a_proj" : "self_attn.q_proj", "self_attn.kv_a_proj_with_mqa"});
  if (q_b) file(*q_b, {"self_attn.q_b_proj"});
  if (kv_b) file(*kv_b, {"self_attn.kv_b_proj"});
  file(*o, {"self_attn.o_proj"});
}

/// Runs one FFN of a layer over `rows` tokens and records the inputs of its Linears. x(first, count) returns the input of a
/// batch, use(first, count, input, pass) takes its results.
template <class Input, class Use>
void LayerPass::ffn(const Decoder& model, const std::string& at, int64_t layer, int64_t ffn, int64_t width, int64_t rows, int64_t forced,
                    const Input& x, const Use& use) {
  std::optional<InputRecord> in, activation;
  if (journal_) {
    in.emplace(model.config().hidden_size, rows, options_.record);
    activation.emplace(width, rows, options_.record);
  }
  each_batch(rows, [&](int64_t first, int64_t count) {
    const at::Tensor input = x(first, count);
    const FfnPass pass = model.ffn_pass(layer, ffn, input);
    if (in) in->add(input);
    if (activation) activation->add(pass.activation);
    use(first, count, input, pass);
  });
  if (!journal_) return;
  record(*in, *journal_, modules_in(model.config(), layer, {at + "gate_proj", at + "up_proj"}), rows - forced, forced);
  record(*activation, *journal_, modules_in(model.config(), layer, {at + "down_proj"}), rows - forced, forced);
}

void LayerPass::dense(const Decoder& model, int64_t layer) {
  ffn(
      model, "mlp.", layer, kDenseFfn, model.config().intermediate_size, tokens(), 0,
      [&](int64_t first, int64_t count) {
        return ffn_inputs_.defined() ? ffn_inputs_.narrow(0, first, count) : model.ffn_input(layer, stream_.narrow(0, first, count));
      },
      [&](int64_t first, int64_t count, const at::Tensor& input, const FfnPass& pass) {
        if (observers_.dense) observers_.dense(layer, first, input, pass.activation);
        stream_.narrow(0, first, count).add_(model.ffn_output(layer, pass.out));
        progress_.update(done_ += count - count / 2, note(layer));
      });
}

void LayerPass::mixture(const Decoder& model, int64_t layer) {
  const ModelConfig& c = model.config();
  const int64_t n = tokens();
  const at::Tensor input = at::empty_like(stream_), selected = at::empty({n, c.top_k}, at::kInt),
                   weights = at::empty({n, c.top_k}, at::kFloat), scores = at::empty({n, c.n_routed_experts}, at::kFloat);
  each_batch(n, [&](int64_t first, int64_t count) {
    const at::Tensor h = model.ffn_input(layer, stream_.narrow(0, first, count));
    const ops::Routing routing = model.route(layer, h);
    input.narrow(0, first, count).copy_(h);
    selected.narrow(0, first, count).copy_(routing.selected);
    weights.narrow(0, first, count).copy_(routing.weights);
    scores.narrow(0, first, count).copy_(routing.scores);
  });
  if (observers_.mixture) observers_.mixture(layer, input, selected, weights);
  if (c.shared_width() > 0)
    ffn(
        model, std::string(shared_experts_module(c.shared_gate)), layer, kDenseFfn, c.shared_width(), n, 0,
        [&](int64_t first, int64_t count) { return input.narrow(0, first, count); },
        [&](int64_t first, int64_t count, const at::Tensor&, const FfnPass& pass) { stream_.narrow(0, first, count).add_(pass.out); });
  const at::Tensor flat_weights = weights.reshape({-1});
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    expert(model, layer, e, input, ops::pairs_of_expert(selected, e), flat_weights, scores);
    progress_.update(done_ + (n - n / 2) * (e + 1) / c.n_routed_experts, note(layer));
  }
  done_ += n - n / 2;
}

void LayerPass::expert(const Decoder& model, int64_t layer, int64_t e, const at::Tensor& input, const at::Tensor& pairs,
                       const at::Tensor& weights, const at::Tensor& scores) {
  const at::Tensor routed = pairs.div(model.config().top_k, "floor");
  const int64_t sent = routed.numel(), wanted = std::min(options_.min_tokens, tokens());
  const std::span<const int64_t> values = host_values<int64_t>(routed);
  std::vector<int64_t> ids(values.begin(), values.end());
  if (sent < wanted) {
    const std::vector<int64_t> more = next_best(scores, e, ids, wanted - sent);
    ids.insert(ids.end(), more.begin(), more.end());  // after those whose output counts
  }
  const int64_t rows = int64_t(ids.size()), forced = rows - sent;
  const at::Tensor tokens_of = at::tensor(ids, at::kLong), scale = weights.index_select(0, pairs).unsqueeze(1);
  ffn(
      model, fmt::format("mlp.experts.{}.", e), layer, e, model.config().moe_intermediate_size, rows, forced,
      [&](int64_t first, int64_t count) { return input.index_select(0, tokens_of.narrow(0, first, count)); },
      [&](int64_t first, int64_t count, const at::Tensor&, const FfnPass& pass) {
        const int64_t real = std::clamp<int64_t>(sent - first, 0, count);
        if (real > 0)
          stream_.index_add_(0, tokens_of.narrow(0, first, real), pass.out.narrow(0, 0, real).mul(scale.narrow(0, first, real)));
      });
  ++layers_.experts;
  layers_.topped_up += forced > 0;
  layers_.below += rows < options_.min_tokens;
  layers_.forced_tokens += forced;
}

}  // namespace overproof
