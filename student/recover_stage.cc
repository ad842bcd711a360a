#include "student/recover_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/tokenizer_files.h"
#include "formats/tensor_name.h"
#include "model/host_values.h"
#include "model/layer_stream.h"
#include "model/sample_windows.h"
#include "model/torch_setup.h"
#include "records/layer_journal.h"
#include "student/ffn.h"
#include "student/recovery.h"
#include "student/router_fit.h"

namespace overproof {
namespace {

using at::Tensor;

/// The router is fitted on the first tokens; more change it little, and their inputs are kept in memory.
constexpr int64_t kRouterTokens = 16384;

/// Squared errors of one layer's FFN output, relative to the square of the parent's, and what was not solved.
struct LayerError {
  double before = 0, after = 0;                  ///< on the tokens that were solved on; after: before the weights are rounded
  double held_out_before = 0, held_out_after = 0;
  double attention_before = 0, attention_after = 0;  ///< of the residual stream after attention, relative to its change by attention
  std::vector<int64_t> kept;                     ///< blocks with too few tokens
  int64_t masked = 0;                            ///< blocks whose zeros stayed zero

  Json to_json() const {
    return {before, after, held_out_before, held_out_after, attention_before, attention_after, kept, masked};
  }
  static std::optional<LayerError> from_json(const Json& json) {
    if (!json.is_array() || json.size() != 8 || !json[6].is_array() || !count_of(json[7])) return std::nullopt;
    for (size_t i = 0; i < 6; ++i)
      if (!json[i].is_number()) return std::nullopt;
    LayerError e{json[0], json[1], json[2], json[3], json[4], json[5], {}, json[7]};
    for (const Json& block : json[6]) {
      const auto index = count_of(block);
      if (!index) return std::nullopt;
      e.kept.push_back(*index);
    }
    return e;
  }
};

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

/// Whether a solved layer changes a tensor.
bool is_solved(std::string_view tensor, const ModelConfig& model, const RecoverConfig& config) {
  using Part = TensorName::Part;
  const TensorName name = TensorName::parse(tensor);
  if (!name.in_decoder() || name.bias) return false;
  if (name.part == Part::down) return true;
  if (name.part == Part::o) return config.attention;
  return config.passes > 1 && model.is_moe() && (name.part == Part::router || name.part == Part::router_bias);
}

/// The solved tensors of all layers, in the order in which they are kept: their names, and how many values precede each.
struct SolvedTensors {
  std::vector<std::string> names;
  std::vector<int64_t> first;  ///< one more than names
  std::vector<int64_t> of_layers;  ///< values of the first l layers, [layers + 1]

  SolvedTensors(const ModelConfig& model, const RecoverConfig& config) : first{0}, of_layers{0} {
    const DecoderWeights shapes = empty_weights(model, {.device = at::kMeta});
    for (size_t l = 0; l < shapes.layers.size(); ++l) {
      for (const StoredTensor& t : stored_layer(shapes.layers[l], int64_t(l))) {
        if (!is_solved(t.name, model, config)) continue;
        names.push_back(t.name);
        first.push_back(first.back() + t.target.numel());
      }
      of_layers.push_back(first.back());
    }
  }
  int64_t bytes_of_layers(int64_t layers) const { return of_layers[size_t(layers)] * int64_t(sizeof(float)); }
};

/// In a projection of which this part is zero, zeros are a mask.
constexpr double kMaskShare = 0.1;

class Recovery {
 public:
  /// `dtype`: of the weights that are written; solved ones are rounded to it before the next layer is solved.
  Recovery(const RecoverConfig& config, DType dtype, LayerStream& student, LayerStream& teacher, const SampledWindows& windows, Outputs& outputs)
      : config_(config),
        rounded_(scalar_type_of(dtype)),
        student_(student),
        teacher_(teacher),
        windows_(windows),
        solved_(student.config(), config),
        length_(windows.ids.size(1)),
        tokens_(windows.ids.numel()),
        fitted_(tokens_ - std::min(windows.ids.size(0) - 1, int64_t(double(windows.ids.size(0)) * config.held_out + 0.5)) * length_),
        journal_(outputs.scratch(), outputs.stage_key(), "solved.f32",
                 {student.config().layers, checked_mul(streams() * tokens_, student.config().hidden_size)},
                 [this](int64_t layers, const Json& progress) { return restore(layers, progress); }) {
    resumed_ = journal_.layers_done();
    stream_ = at::empty({streams(), tokens_, student.config().hidden_size});
    if (resumed_ == 0) {
      errors_.clear();
      stream_[0].copy_(student.embed(windows.ids));
      if (streams() > 1) stream_[1].copy_(teacher.embed(windows.ids));
      return;
    }
    journal_.read_stream(mutable_host_values<float>(stream_));
  }

  void run() {
    const int64_t layers = student_.config().layers;
    Progress progress("recover", tokens_ * layers, "tokens", tokens_ * resumed_);
    for (int64_t l = resumed_; l < layers; ++l) {
      LayerError error;
      attention(l, error);
      for (int64_t pass = 0; pass < config_.passes; ++pass) {
        if (pass > 0 && student_.config().is_moe()) refit_router(l);
        solve(l, pass, error);
      }
      finish(l, error);
      errors_.push_back(error);
      for (const StoredTensor& t : stored_layer(student_.at(l).layers()[size_t(l)], l))
        if (is_solved(t.name, student_.config(), config_)) journal_.append(host_values<float>(t.target));
      Json records = Json::array();
      for (const LayerError& e : errors_) records.push_back(e.to_json());
      journal_.checkpoint(l + 1, {{"errors", std::move(records)}}, host_values<float>(stream_));
      progress.update(tokens_ * (l + 1), fmt::format("layer {} of {}, error {:.3f} -> {:.3f}", l + 1, layers, error.held_out_before,
                                                     error.held_out_after));
    }
    student_.clear();
    teacher_.clear();
  }

  /// Writes the student with what was solved.
  void save(OutputFolder& folder, DType dtype) {
    const MappedFile all = journal_.spilled(solved_.bytes_of_layers(student_.config().layers));
    const auto* values = reinterpret_cast<const float*>(all.bytes().data());
    size_t next = 0;  // both lists have the order of the checkpoint
    const auto replaced = [&](const std::string& name) -> std::span<const float> {
      if (next >= solved_.names.size() || solved_.names[next] != name) return {};
      const int64_t first = solved_.first[next], last = solved_.first[++next];
      return {values + first, size_t(last - first)};
    };
    save_tensors(student_.config(), *student_.checkpoint().tensors, student_.checkpoint().path, replaced, folder, dtype);
    OVERPROOF_CHECK(next == solved_.names.size());
    journal_.clear();
  }

  const std::vector<LayerError>& errors() const { return errors_; }
  int64_t resumed() const { return resumed_; }
  int64_t fitted() const { return fitted_; }

 private:
  bool follows_parent() const { return config_.attention || config_.target == RecoverConfig::Target::residual; }
  int64_t streams() const { return follows_parent() ? 2 : 1; }
  Tensor own(int64_t first, int64_t count) const { return stream_[0].narrow(0, first, count); }
  Tensor parents(int64_t first, int64_t count) const { return stream_[1].narrow(0, first, count); }

  std::optional<int64_t> restore(int64_t layers, const Json& progress) {
    errors_.clear();
    if (!progress.contains("errors") || !progress["errors"].is_array() || int64_t(progress["errors"].size()) != layers)
      return std::nullopt;
    for (const Json& json : progress["errors"]) {
      auto error = LayerError::from_json(json);
      if (!error) return std::nullopt;
      errors_.push_back(std::move(*error));
    }
    return solved_.bytes_of_layers(layers);
  }

  /// Calls body(first, count) for the rows of each batch of windows in [0, end). Batches do not mix solved and held-out rows.
  template <class Body>
  void each_batch(int64_t end, const Body& body) const {
    const int64_t rows = config_.batch_size * length_;
    for (int64_t first = 0, count; first < end; first += count) {
      throw_if_interrupted();
      count = std::min(rows, (first < fitted_ ? std::min(fitted_, end) : end) - first);
      body(first, count);
    }
  }

  /// x, the rows from `first` on, after the model's attention block.
  Tensor attended(const Decoder& model, int64_t layer, const Tensor& x, int64_t first, AttentionInputs* seen = nullptr) const {
    const int64_t count = x.size(0) / length_;
    return model.attention_block(layer, x, count, seen, windows_.segments_of(first / length_, count));
  }

  /// Takes the streams through the attention block, after its output projection was solved.
  void attention(int64_t layer, LayerError& error) {
    if (follows_parent())
      each_batch(tokens_, [&](int64_t first, int64_t count) {
        parents(first, count).copy_(attended(teacher_.at(layer), layer, parents(first, count), first));
      });
    if (config_.attention) {
      const Decoder& model = student_.at(layer);
      const Tensor& o = model.layers()[size_t(layer)].o;
      RidgeSystem system({o.size(1)}, o.size(0));
      double whole = 0;
      each_batch(fitted_, [&](int64_t first, int64_t count) {
        AttentionInputs seen;
        const Tensor x = own(first, count), out = attended(model, layer, x, first, &seen);
        system.add({{seen.o, {}}}, parents(first, count) - out);
        whole += sum_of_squares(out - x);
      });
      const RidgeSystem::Solution solution = system.solve(config_.ridge, config_.min_tokens, free_weights(o.t(), {o.size(1)}, {}, error.masked));
      o.copy_((o.to(at::kDouble) + solution.change.t()).to(rounded_));
      error.attention_before = ratio(system.square(), whole);
      error.attention_after = ratio(solution.square, whole);
    }
    each_batch(tokens_, [&](int64_t first, int64_t count) {
      own(first, count).copy_(attended(student_.at(layer), layer, own(first, count), first));
    });
  }

  /// What the FFN of the student should add to its residual stream.
  Tensor target(int64_t layer, int64_t first, int64_t count) const {
    if (config_.target == RecoverConfig::Target::local) return FfnOutputs(teacher_.at(layer), layer).run(own(first, count)).out;
    const Tensor theirs = parents(first, count);
    return FfnOutputs(teacher_.at(layer), layer).run(theirs).out.add_(theirs).sub_(own(first, count));
  }

  /// The weights that may change where some are to stay zero, Bool as `weights` [features, outputs]; undefined: all may. `kept`: blocks that stay as
  /// they are. A block that is zero as a whole, an empty place, is no mask.
  Tensor free_weights(const Tensor& weights, const std::vector<int64_t>& widths, const std::vector<bool>& kept, int64_t& masked) const {
    masked = 0;
    if (config_.zeros == RecoverConfig::Zeros::no) return {};
    const Tensor free = at::ones(weights.sizes(), at::kBool);
    int64_t first = 0;
    for (size_t b = 0; b < widths.size(); first += widths[b++]) {
      if (b < kept.size() && kept[b]) continue;
      const Tensor block = weights.narrow(0, first, widths[b]).ne(0);
      const auto zeros = block.numel() - block.sum().item<int64_t>();
      const double share = double(zeros) / double(block.numel());
      if (zeros == 0 || zeros == block.numel() || (config_.zeros == RecoverConfig::Zeros::automatic && share < kMaskShare)) continue;
      free.narrow(0, first, widths[b]).copy_(block);
      ++masked;
    }
    return masked > 0 ? free : Tensor();
  }

  void solve(int64_t layer, int64_t pass, LayerError& error) {
    const FfnOutputs outputs(student_.at(layer), layer);
    RidgeSystem system(outputs.widths(), student_.config().hidden_size);
    double whole = 0;
    if (pass == 0) held_out_targets_.clear();
    double held_out = 0, held_out_whole = 0;
    each_batch(pass == 0 ? tokens_ : fitted_, [&](int64_t first, int64_t count) {
      const FfnOutputs::Pass now = outputs.run(own(first, count));
      const Tensor wanted = target(layer, first, count);
      if (first < fitted_) {
        system.add(now.blocks, wanted - now.out);
        whole += sum_of_squares(wanted);
      } else {
        held_out += sum_of_squares(wanted - now.out);
        held_out_whole += sum_of_squares(wanted);
        held_out_targets_.push_back(wanted);
      }
    });
    std::vector<bool> kept;
    for (size_t b = 0; b < outputs.widths().size(); ++b) kept.push_back(system.is_kept(b, config_.min_tokens));
    const Tensor free = free_weights(outputs.weights(), outputs.widths(), kept, error.masked);
    const RidgeSystem::Solution solution = system.solve(config_.ridge, config_.min_tokens, free);
    outputs.set_weights(outputs.weights().to(at::kDouble).add_(solution.change).to(rounded_));
    error.after = ratio(solution.square, whole);
    error.kept.assign(solution.kept.begin(), solution.kept.end());
    if (pass > 0) return;
    error.before = ratio(system.square(), whole);
    error.held_out_before = ratio(held_out, held_out_whole);
  }

  /// Fits the router to what the solved experts would gain.
  void refit_router(int64_t layer) {
    const int64_t used = std::min(fitted_, kRouterTokens), k = student_.config().top_k;
    const Decoder& model = student_.at(layer);
    const LayerWeights& w = model.layers()[size_t(layer)];
    const Tensor input = at::empty({used, student_.config().hidden_size}), norms = at::empty({used, w.router.size(0)});
    each_batch(used, [&](int64_t first, int64_t count) {
      input.narrow(0, first, count).copy_(model.ffn_input(layer, own(first, count)));
      const Tensor gains = expert_gains(model, layer, own(first, count), target(layer, first, count));
      norms.narrow(0, first, count).copy_(gains.clamp_min(0).sqrt());
    });
    const OneTorchThread one_thread;
    RouterFitOptions options;
    options.top_k = k;
    options.most_load = config_.max_load;
    options.scale = at::matmul(input, w.router.t()).square().mean().sqrt().item<double>();
    options.biased = w.router_bias.defined();
    const RouterFit fit = fit_router(input, norms, options);
    w.router.copy_(fit.gate);
    if (options.biased) w.router_bias.copy_(fit.bias);
  }

  /// Takes the streams through the FFN and measures the held-out tokens.
  void finish(int64_t layer, LayerError& error) {
    const FfnOutputs outputs(student_.at(layer), layer);
    double held_out = 0, held_out_whole = 0;
    size_t batch = 0;
    each_batch(tokens_, [&](int64_t first, int64_t count) {
      const Tensor out = outputs.run(own(first, count)).out;
      if (first >= fitted_) {
        const Tensor& wanted = held_out_targets_[batch++];
        held_out += sum_of_squares(wanted - out);
        held_out_whole += sum_of_squares(wanted);
      }
      own(first, count).add_(out);
    });
    error.held_out_after = ratio(held_out, held_out_whole);
    if (follows_parent())
      each_batch(tokens_, [&](int64_t first, int64_t count) {
        parents(first, count).add_(FfnOutputs(teacher_.at(layer), layer).run(parents(first, count)).out);
      });
  }

  const RecoverConfig& config_;
  at::ScalarType rounded_;
  LayerStream& student_;
  LayerStream& teacher_;
  const SampledWindows& windows_;
  SolvedTensors solved_;
  int64_t length_, tokens_, fitted_;  // the first fitted_ tokens are solved on
  std::vector<LayerError> errors_;
  std::vector<Tensor> held_out_targets_;
  Tensor stream_;  // [streams, tokens, hidden]: the student's, then the parent's
  int64_t resumed_ = 0;
  LayerJournal journal_;
};

/// The parent has the student's shape except for the FFN.
void require_parent(const LayerStream& student, const LayerStream& teacher, const Inputs& inputs) {
  const ModelConfig &s = student.config(), &t = teacher.config();
  if (s.layers != t.layers || s.hidden_size != t.hidden_size || s.vocab_size != t.vocab_size)
    throw MismatchError(fmt::format(
        "{}: has {} layers of hidden size {} and {} tokens, the student {} of {} and {}; recover needs the model that the student was "
        "made from",
        inputs.path("teacher").string(), t.layers, t.hidden_size, t.vocab_size, s.layers, s.hidden_size, s.vocab_size));
  if (student.rounds())
    throw UsageError(fmt::format("{}: rounds its activations to 8 bits (quantization_config); recover its parent and quantize the result",
                                   inputs.path("student").string()));
}

}  // namespace

StageReport run_recover(const RecoverConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  LayerStream student = open_stream_for(corpus, inputs, "student"), teacher = open_stream_for(corpus, inputs, "teacher");
  for (const auto& [model, what] : {std::pair(&student, "student"), std::pair(&teacher, "teacher")})
    if (const std::string cause = model->config().why_not_trained(); !cause.empty())
      throw MismatchError(fmt::format("the {} cannot be compared layer by layer: {}", what, cause));
  require_parent(student, teacher, inputs);
  const ComputeChoice compute = use_compute(config.compute, student.config().hidden_size, outputs);
  const KeepFreedMemory keep_freed_memory;
  const SampledWindows windows = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
  const Tensor& ids = windows.ids;

  const DType dtype = written_dtype(config.dtype, student.checkpoint());

  Recovery recovery(config, dtype, student, teacher, windows, outputs);
  recovery.run();
  recovery.save(outputs.folder(), dtype);
  copy_companions_noted(inputs.path("student"), outputs.folder());

  Json layers = Json::array(), kept = Json::array();
  LayerError mean;
  int64_t masked = 0;
  for (size_t l = 0; l < recovery.errors().size(); ++l) {
    const LayerError& e = recovery.errors()[l];
    Json record = {{"layer", l},
                   {"error_before", e.before},
                   {"error", e.after},
                   {"held_out_error_before", e.held_out_before},
                   {"held_out_error", e.held_out_after}};
    if (config.attention) {
      record["attention_error_before"] = e.attention_before;
      record["attention_error"] = e.attention_after;
    }
    layers.push_back(std::move(record));
    masked += e.masked;
    for (const int64_t block : e.kept) kept.push_back(fmt::format("layer {} {}", l, FfnOutputs(student.ends(), int64_t(l)).name(size_t(block))));
    for (double LayerError::*m : {&LayerError::before, &LayerError::after, &LayerError::held_out_before, &LayerError::held_out_after})
      mean.*m += e.*m / double(recovery.errors().size());
  }
  StageReport report;
  report.summary = {
      fmt::format("{} layers solved on {} tokens", student.config().layers, recovery.fitted()),
      fmt::format("error of the FFN outputs, mean over layers: {:.3f} -> {:.3f}, on {} held-out tokens {:.3f} -> {:.3f}", mean.before,
                  mean.after, ids.numel() - recovery.fitted(), mean.held_out_before, mean.held_out_after)};
  if (!kept.empty()) {
    const auto names = kept.get<std::vector<std::string>>();
    report.summary.push_back(fmt::format("{} experts had fewer than {} tokens and keep their weights: {}{}", names.size(), config.min_tokens,
                                         fmt::join(names.begin(), names.begin() + std::min<ptrdiff_t>(ptrdiff_t(names.size()), 8), ", "),
                                         names.size() > 8 ? ", …" : ""));
  }
  if (masked > 0) report.summary.push_back(fmt::format("zeros stayed zero in {} projections", masked));
  report.summary.push_back(compute.summary());
  if (recovery.resumed() > 0) report.summary.push_back(fmt::format("resumed after {} layers", recovery.resumed()));
  report.metrics() = {{"tokens", recovery.fitted()},
                      {"windows", ids.size(0)},
                      {"held_out_tokens", ids.numel() - recovery.fitted()},
                      {"error_before", mean.before},
                      {"error", mean.after},
                      {"held_out_error_before", mean.held_out_before},
                      {"held_out_error", mean.held_out_after},
                      {"layers", std::move(layers)},
                      {"kept", std::move(kept)},
                      {"masked", masked},
                      {kComputeMetric, compute.name()}};
  record_dtype(report.metrics(), dtype);
  return report;
}

}  // namespace overproof
