#include "evaluate/activations_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "evaluate/activation_recorder.h"
#include "model/decoder.h"
#include "model/host_values.h"
#include "model/open_model.h"
#include "model/sample_windows.h"
#include "records/activation_journal.h"

namespace overproof {
namespace {

using at::Tensor;

/// The `count` tokens with the highest router score for `expert` among those that are not in `routed` (ascending); the lower token
/// on ties. Returned in ascending order.
std::vector<int64_t> next_best(const Tensor& scores, int64_t expert, const std::vector<int64_t>& routed, int64_t count) {
  const int64_t tokens = scores.size(0);
  const Tensor column = scores.select(1, expert).contiguous();
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

/// Takes the residual stream of all windows through one layer after another, in the decoder's own steps.
class LayerByLayer {
 public:
  /// `stream` f32 [tokens, hidden] is the input of the layer after the finished ones.
  LayerByLayer(const Decoder& model, const ActivationsConfig& config, const SampledWindows& windows, Tensor stream, ActivationJournal& journal,
               Progress& progress)
      : model_(model),
        config_(config),
        options_{config.samples, config.hessians},
        windows_(windows),
        length_(windows.ids.size(1)),
        stream_(std::move(stream)),
        journal_(journal),
        progress_(progress),
        layers_(journal.progress()),
        done_(layers_.layers_done * stream_.size(0)) {}

  void run() {
    while (layers_.layers_done < model_.config().layers) {
      const int64_t layer = layers_.layers_done;
      attention(layer);
      if (model_.config().is_moe()) mixture(layer);
      else dense(layer);
      ++layers_.layers_done;
      journal_.checkpoint(layers_, host_values<float>(stream_.contiguous()));
    }
  }

 private:
  int64_t tokens() const { return stream_.size(0); }
  std::string name(int64_t layer, std::string_view part) const { return fmt::format("model.layers.{}.{}", layer, part); }

  /// Calls body(first, count) for the rows of each batch of windows.
  template <class Body>
  void each_batch(Body&& body) {
    const int64_t rows = config_.batch_size * length_;
    for (int64_t first = 0; first < tokens(); first += rows) {
      throw_if_interrupted();
      body(first, std::min(rows, tokens() - first));
    }
  }

  void attention(int64_t layer) {
    const ModelConfig& c = model_.config();
    InputRecord qkv(c.hidden_size, tokens(), options_), o(c.heads * c.head_dim, tokens(), options_);
    each_batch([&](int64_t first, int64_t count) {
      AttentionInputs seen;
      const Tensor rows = stream_.narrow(0, first, count);
      rows.copy_(model_.attention_block(layer, rows, count / length_, &seen, windows_.segments_of(first / length_, count / length_)));
      qkv.add(seen.qkv);
      o.add(seen.o);
      progress_.update(done_ += count / 2, fmt::format("layer {} of {}", layer + 1, c.layers));
    });
    qkv.file(journal_, {name(layer, "self_attn.q_proj"), name(layer, "self_attn.k_proj"), name(layer, "self_attn.v_proj")},
             tokens(), 0);
    o.file(journal_, {name(layer, "self_attn.o_proj")}, tokens(), 0);
  }

  /// Runs one FFN of a layer over `rows` tokens and records the inputs of its Linears. x(first, count) returns the input of a
  /// batch, use(first, count, out) takes its output.
  template <class Input, class Use>
  void ffn(const std::string& at, int64_t layer, int64_t ffn, int64_t width, int64_t rows, int64_t forced, const Input& x,
           const Use& use) {
    InputRecord in(model_.config().hidden_size, rows, options_), activation(width, rows, options_);
    const int64_t step = config_.batch_size * length_;
    for (int64_t first = 0; first < rows; first += step) {
      throw_if_interrupted();
      const int64_t count = std::min(step, rows - first);
      const Tensor input = x(first, count);
      const FfnPass pass = model_.ffn_pass(layer, ffn, input);
      in.add(input);
      activation.add(pass.activation);
      use(first, count, pass.out);
    }
    in.file(journal_, {at + "gate_proj", at + "up_proj"}, rows - forced, forced);
    activation.file(journal_, {at + "down_proj"}, rows - forced, forced);
  }

  void dense(int64_t layer) {
    ffn(
        name(layer, "mlp."), layer, kDenseFfn, model_.config().intermediate_size, tokens(), 0,
        [&](int64_t first, int64_t count) { return model_.ffn_input(layer, stream_.narrow(0, first, count)); },
        [&](int64_t first, int64_t count, const Tensor& out) {
          stream_.narrow(0, first, count).add_(out);
          progress_.update(done_ += count - count / 2);
        });
  }

  void mixture(int64_t layer) {
    const ModelConfig& c = model_.config();
    const int64_t n = tokens();
    const Tensor input = at::empty_like(stream_), selected = at::empty({n, c.top_k}, at::kInt),
                 weights = at::empty({n, c.top_k}, at::kFloat), scores = at::empty({n, c.n_routed_experts}, at::kFloat);
    each_batch([&](int64_t first, int64_t count) {
      const Tensor h = model_.ffn_input(layer, stream_.narrow(0, first, count));
      const ops::Routing routing = model_.route(layer, h);
      input.narrow(0, first, count).copy_(h);
      selected.narrow(0, first, count).copy_(routing.selected);
      weights.narrow(0, first, count).copy_(routing.weights);
      scores.narrow(0, first, count).copy_(routing.scores);
    });
    if (c.n_shared_experts > 0)
      ffn(
          name(layer, "mlp.shared_experts."), layer, kDenseFfn, c.n_shared_experts * c.moe_intermediate_size, n, 0,
          [&](int64_t first, int64_t count) { return input.narrow(0, first, count); },
          [&](int64_t first, int64_t count, const Tensor& out) { stream_.narrow(0, first, count).add_(out); });
    const Tensor flat_weights = weights.reshape({-1});
    for (int64_t e = 0; e < c.n_routed_experts; ++e) {
      expert(layer, e, input, ops::pairs_of_expert(selected, e), flat_weights, scores);
      progress_.update(done_ + (n - n / 2) * (e + 1) / c.n_routed_experts, fmt::format("layer {} of {}", layer + 1, c.layers));
    }
    done_ += n - n / 2;
  }

  void expert(int64_t layer, int64_t e, const Tensor& input, const Tensor& pairs, const Tensor& weights, const Tensor& scores) {
    const Tensor routed = pairs.div(model_.config().top_k, "floor");
    const int64_t sent = routed.numel(), wanted = std::min(config_.min_tokens, tokens());
    const std::span<const int64_t> values = host_values<int64_t>(routed);
    std::vector<int64_t> ids(values.begin(), values.end());
    if (sent < wanted) {
      const std::vector<int64_t> more = next_best(scores, e, ids, wanted - sent);
      ids.insert(ids.end(), more.begin(), more.end());  // after those whose output counts
    }
    const int64_t rows = int64_t(ids.size()), forced = rows - sent;
    const Tensor tokens_of = at::tensor(ids, at::kLong), scale = weights.index_select(0, pairs).unsqueeze(1);
    ffn(
        name(layer, fmt::format("mlp.experts.{}.", e)), layer, e, model_.config().moe_intermediate_size, rows, forced,
        [&](int64_t first, int64_t count) { return input.index_select(0, tokens_of.narrow(0, first, count)); },
        [&](int64_t first, int64_t count, const Tensor& out) {
          const int64_t real = std::clamp<int64_t>(sent - first, 0, count);
          if (real > 0)
            stream_.index_add_(0, tokens_of.narrow(0, first, real), out.narrow(0, 0, real).mul(scale.narrow(0, first, real)));
        });
    ++layers_.experts;
    layers_.topped_up += forced > 0;
    layers_.below += rows < config_.min_tokens;
    layers_.forced_tokens += forced;
  }

  const Decoder& model_;
  const ActivationsConfig& config_;
  RecorderOptions options_;
  const SampledWindows& windows_;
  int64_t length_;
  Tensor stream_;  // [tokens, hidden]
  ActivationJournal& journal_;
  Progress& progress_;
  LayerProgress layers_;
  int64_t done_;
};

}  // namespace

StageReport run_activations(const ActivationsConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  const Decoder model = open_model_for(corpus, inputs, "model");
  const SampledWindows sampled = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
  const Tensor& ids = sampled.ids;
  const int64_t windows = ids.size(0), tokens = ids.numel(), layers = model.config().layers;

  const int64_t hidden = model.config().hidden_size;
  ActivationJournal journal(outputs.scratch(), outputs.stage_key(), {layers, tokens, hidden});
  const int64_t resumed = journal.progress().layers_done;
  Tensor stream;
  if (resumed > 0) {
    stream = at::empty({tokens, hidden}, at::kFloat);
    journal.read_stream(mutable_host_values<float>(stream));
  } else {
    stream = model.embed(ids);
  }
  {
    Progress progress("activations", tokens * layers, "tokens", tokens * resumed);
    LayerByLayer(model, config, sampled, std::move(stream), journal, progress).run();
  }
  const LayerProgress e = journal.progress();
  const int64_t groups = journal.groups();
  journal.finish(outputs.folder(), {{"model_root", inputs.root("model").hex()},
                                    {"corpus_root", inputs.root("corpus").hex()},
                                    {"tokens", std::to_string(tokens)}});

  StageReport report;
  report.metrics() = {{"tokens", tokens}, {"windows", windows}, {"layers", layers}, {"groups", groups}};
  report.summary = {fmt::format("{} tokens through {} layers, {} inputs recorded{}", tokens, layers, groups,
                                config.hessians ? " with Hessians" : "")};
  if (resumed > 0) report.summary.push_back(fmt::format("resumed after {} layers", resumed));
  if (e.experts > 0) {
    report.metrics()["experts"] = {
        {"total", e.experts}, {"topped_up", e.topped_up}, {"below_min_tokens", e.below}, {"forced_tokens", e.forced_tokens}};
    report.summary.push_back(fmt::format("{} experts: {} were topped up to {} tokens ({} tokens by force), {} stayed below",
                                         e.experts, e.topped_up, config.min_tokens, e.forced_tokens, e.below));
  }
  return report;
}

}  // namespace overproof
