#include "student/carve_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <mutex>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/tokenizer_files.h"
#include "records/ffn_statistics.h"
#include "student/carve.h"
#include "student/certificate.h"
#include "student/ffn.h"

namespace overproof {
namespace {

Json layer_record(int64_t layer, const LayerCarving& carving) {
  const CarveQuality& q = carving.quality;
  Json tried = Json::array();
  for (const CarveAttempt& a : carving.attempts)
    tried.push_back({{"clusters", a.split},
                     {"refits", a.refits},
                     {"recovered_error", a.recovered_error},
                     {"recovered_oracle_error", a.recovered_oracle_error}});
  Json record = {{"layer", layer},
          {"tried", std::move(tried)},
          {"taken", carving.best},
          {"recall", q.recall},
          {"centroid_recall", q.centroid_recall},
          {"router_error", q.router_error},
          {"oracle_error", q.oracle_error},
          {"static_error", q.static_error},
          {"load_spread", q.load_spread}};
  if (q.analytic_error >= 0) record.update({{"analytic_recall", q.analytic_recall}, {"analytic_error", q.analytic_error}});
  if (carving.specialised >= 0) record["specialised"] = carving.specialised;
  return record;
}

double mean_of(const std::vector<LayerCarving>& layers, double CarveQuality::*member) {
  double sum = 0;
  for (const LayerCarving& layer : layers) sum += layer.quality.*member;
  return sum / double(layers.size());
}

double mean_of(const std::vector<LayerCarving>& layers, double CarveAttempt::*member) {
  double sum = 0;
  for (const LayerCarving& layer : layers) sum += layer.attempts.at(layer.best).*member;
  return sum / double(layers.size());
}

/// What was tried in all layers, by the mean error after recovery.
std::string tried_line(const std::vector<LayerCarving>& layers) {
  std::string line = "tried, by mean error after recovery:";
  const std::vector<CarveAttempt>& attempts = layers.front().attempts;
  for (size_t i = 0; i < attempts.size(); ++i) {
    double error = 0;
    int64_t taken = 0;
    for (const LayerCarving& layer : layers) {
      error += layer.attempts[i].recovered_error / double(layers.size());
      taken += layer.best == i;
    }
    line += fmt::format("{} {}{} {:.3f} (taken in {} layers)", i ? "," : "", attempts[i].split,
                        attempts[i].refits ? fmt::format(" refitted {} x", attempts[i].refits) : "", error, taken);
  }
  return line;
}

/// One number of shared experts, and the mean error after recovery of the layers that were carved with it.
struct SharedAttempt {
  CarveOptions options;
  double recovered_error = 0;
};

/// `options` and the others of `try_shared`: as many experts, and as many active.
std::vector<SharedAttempt> shared_attempts(const CarveOptions& options, const StringList& try_shared) {
  std::vector<SharedAttempt> attempts = {{options}};
  for (const std::string& text : try_shared) {
    int64_t shared = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), shared);
    const int64_t moved = shared - options.shared;
    if (error != std::errc() || end != text.data() + text.size() || shared < 0)
      throw UsageError(fmt::format("option 'try-shared': '{}' is not a number of experts", text));
    if (options.top_k - moved < 1 || options.experts - moved < 2 || options.top_k - moved > options.experts - moved)
      throw UsageError(fmt::format("option 'try-shared': with {} of {} experts shared and {} active, no routed expert would be left to choose",
                                   shared, options.experts + options.shared, options.shared + options.top_k));
    if (std::any_of(attempts.begin(), attempts.end(), [&](const SharedAttempt& a) { return a.options.shared == shared; })) continue;
    attempts.push_back({options});
    attempts.back().options.shared = shared;
    attempts.back().options.experts -= moved;
    attempts.back().options.top_k -= moved;
  }
  return attempts;
}

using CarveLayer = std::function<LayerCarving(const CarveOptions&, int64_t)>;

/// Carves every fifth layer in each way. The first of equals wins.
CarveOptions choose_shared(std::vector<SharedAttempt>& attempts, int64_t layers, const CarveLayer& carve) {
  if (attempts.size() > 1) {
    const int64_t tried = (layers + 4) / 5, jobs = tried * int64_t(attempts.size());
    std::vector<double> errors(static_cast<size_t>(jobs));
    Progress progress("carve: shared experts", jobs, "layers");
    std::mutex reporting;
    int64_t done = 0;
    at::parallel_for(0, jobs, 1, [&](int64_t begin, int64_t end) {
      at::NoGradGuard no_grad_here;
      for (int64_t job = begin; job < end; ++job) {
        throw_if_interrupted();
        const LayerCarving carved = carve(attempts[size_t(job / tried)].options, job % tried * 5);
        errors[size_t(job)] = carved.attempts[carved.best].recovered_error;
        const std::lock_guard lock(reporting);
        progress.update(++done, fmt::format("{} neurons shared: recovered {:.3f}", carved.shared_neurons, errors[size_t(job)]));
      }
    });
    for (int64_t job = 0; job < jobs; ++job) attempts[size_t(job / tried)].recovered_error += errors[size_t(job)] / double(tried);
  }
  return std::min_element(attempts.begin(), attempts.end(), [](const auto& a, const auto& b) {
           return a.recovered_error < b.recovered_error;
         })->options;
}

}  // namespace

StageReport run_carve(const CarveConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const FfnStatistics statistics(inputs.path("statistics"));
  LayerStream teacher = open_dense_stream(inputs.path("teacher"));
  const Checkpoint& checkpoint = teacher.checkpoint();
  const ModelConfig& dense_shape = teacher.config();
  statistics.require_teacher(inputs.root("teacher"), dense_shape.layers, dense_shape.hidden_size, dense_shape.intermediate_size);

  const DType dtype = written_dtype(config.dtype, checkpoint);
  const bool teacher_ties = is_tied(checkpoint);
  const StudentProfile profile = resolve_profile(dense_shape, config.profile);
  const bool tie = resolve_tie(config.tie, teacher_ties, /*needs_head=*/profile == StudentProfile::glm4_moe);
  CarveOptions options{.experts = config.experts,
                       .shared = config.shared,
                       .top_k = config.top_k,
                       .clustering_iterations = config.clustering_iterations,
                       .ranking_steps = config.ranking_steps,
                       .router_scale = config.router_scale,
                       .ridge = config.ridge,
                       .clusters = {},
                       .refits = config.refits,
                       .recovery_ridge = config.recovery_ridge,
                       .most_load = config.max_load,
                       .seed = config.seed,
                       .method = config.method,
                       .fitted_router = config.router == CarveConfig::Router::fitted || !has_own_router(config.method),
                       .active = config.active,
                       .window = statistics.shape().window_length,
                       .tie = tie,
                       .profile = profile};
  for (const std::string& name : config.clusters)
    options.clusters.push_back(name == "coactivation" ? ClusterBy::coactivation : ClusterBy::contribution);

  const auto carve = [&](const CarveOptions& with, int64_t l) {
    const LayerWeights dense = load_layer(dense_shape, l, *checkpoint.tensors, checkpoint.path);  // each thread has its own
    return carve_layer(dense.gate_up, dense.down, at::tensor(statistics.ffn_input(l)).view({-1, dense_shape.hidden_size}), with, l);
  };
  std::vector<SharedAttempt> attempts = shared_attempts(options, config.try_shared);
  for (const SharedAttempt& attempt : attempts) carved_config(teacher.config(), attempt.options);  // its refusals come before the trials
  options = choose_shared(attempts, dense_shape.layers, carve);
  const ModelConfig shape = carved_config(teacher.config(), options);

  std::vector<LayerCarving> layers(size_t(shape.layers));
  {
    Progress progress("carve", shape.layers, "layers");
    std::mutex reporting;
    int64_t done = 0;
    // One thread a layer: much of a layer is clustering and factorisation, which have one thread, and so no sum depends on their number.
    at::parallel_for(0, shape.layers, 1, [&](int64_t begin, int64_t end) {
      at::NoGradGuard no_grad_here;
      for (int64_t l = begin; l < end; ++l) {
        throw_if_interrupted();
        const LayerCarving& carved = layers[size_t(l)] = carve(options, l);
        const CarveQuality& q = carved.quality;
        const std::lock_guard lock(reporting);
        progress.update(++done,
                      fmt::format("recall {:.2f}, error {:.3f} (static {:.3f}), recovered {:.3f}", q.recall, q.router_error,
                                    q.static_error, carved.attempts[carved.best].recovered_error));
      }
    });
  }

  save_tensors(shape, CarvedTensors(teacher, shape, layers), checkpoint.path, [](const std::string&) { return std::span<const float>(); }, outputs.folder(),
               dtype);
  // The certificate is of what was written, so the teacher is rounded as well; for one of the same dtype this changes nothing.
  LayerStream student(open_checkpoint(outputs.folder().path()));
  const int64_t length = statistics.shape().window_length;
  const std::vector<int64_t> ids = statistics.ids((config.certificate_tokens + length - 1) / length, shape.vocab_size);
  const FoldedFactors factors = folded_factors(shape);
  const auto rounded_down = [&](const at::Tensor& down, int64_t l) {
    const LayerCarving& carving = layers[size_t(l)];
    const at::Tensor folded = at::full({down.size(1)}, factors.routed);
    folded.index_fill_(0, carving.neurons.narrow(0, 0, carving.shared_neurons), factors.shared);
    return (down * folded).to(scalar_type_of(dtype)).to(at::kFloat) / folded;
  };
  Certificate certificate = certify_equivalence(teacher, student, at::tensor(ids).view({-1, length}), dtype, rounded_down);
  if (!certificate.holds())
    throw DivergenceError(fmt::format(
        "{}: with all experts active and a zero gate the carved student's logits differ from this teacher's by {:.3g}, at logits up to "
        "{:.3g}",
        inputs.path("teacher").string(), certificate.largest_difference, certificate.largest_logit));

  Json per_layer = Json::array();
  for (size_t l = 0; l < layers.size(); ++l) per_layer.push_back(layer_record(int64_t(l), layers[l]));
  copy_companions_noted(inputs.path("teacher"), outputs.folder());
  outputs.folder().write_file("carving.json", Json{{"layers", per_layer}}.dump(1) + "\n");
  outputs.folder().write_file("certificate.json", certificate.to_json().dump(1) + "\n");

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  StageReport report;
  report.metrics() = {{"parameters", shape.parameters()},
                      {"active_parameters", shape.active_parameters()},
                      {"active_fraction", active},
                      {"ffn_activation", shape.ffn_activation()},
                      {"recall", mean_of(layers, &CarveQuality::recall)},
                      {"centroid_recall", mean_of(layers, &CarveQuality::centroid_recall)},
                      {"router_error", mean_of(layers, &CarveQuality::router_error)},
                      {"oracle_error", mean_of(layers, &CarveQuality::oracle_error)},
                      {"static_error", mean_of(layers, &CarveQuality::static_error)},
                      {"load_spread", mean_of(layers, &CarveQuality::load_spread)},
                      {"recovered_error", mean_of(layers, &CarveAttempt::recovered_error)},
                      {"recovered_oracle_error", mean_of(layers, &CarveAttempt::recovered_oracle_error)},
                      {"certificate", certificate.to_json()}};
  record_dtype(report.metrics(), dtype);
  const std::string tying =
      record_tie(report.metrics(), config.tie, teacher_ties, tie, shape.vocab_size * shape.hidden_size * dtype_bytes(dtype));
  report.summary = {
      fmt::format("{} layers carved into {} routed experts and {} shared of width {}, {} routed active", shape.layers,
                  options.experts, options.shared, shape.moe_intermediate_size, options.top_k),
      fmt::format("certificate: with all experts active and a zero gate, logits differ by at most {:.2g} over {} tokens (largest "
                  "logit {:.1f}){}",
                  certificate.largest_difference, certificate.tokens, certificate.largest_logit,
                  dtype == weight_dtype(checkpoint) ? "" : fmt::format(", both in {}", dtype_name(dtype))),
      fmt::format("activation: {:.1f} % of the FFN neurons, {:.1f} % of all {:.1f} million parameters",
                  100 * shape.ffn_activation(), 100 * active, double(shape.parameters()) / 1e6),
      fmt::format("router recall {:.0f} % (centroid router {:.0f} %); FFN output error {:.3f}, with the best experts {:.3f}, "
                  "with the same neurons for "
                  "all tokens {:.3f}",
                  100 * mean_of(layers, &CarveQuality::recall), 100 * mean_of(layers, &CarveQuality::centroid_recall),
                  mean_of(layers, &CarveQuality::router_error), mean_of(layers, &CarveQuality::oracle_error),
                  mean_of(layers, &CarveQuality::static_error))};
  if (profile == StudentProfile::qwen2_moe) {
    report.metrics()["profile"] = shape.model_type;
    report.summary.push_back(
        fmt::format("written as {}: {}; its router has no selection bias, so balance loads in distill by --loss balance=", shape.model_type,
                    config.profile == profile ? "profile = qwen2_moe" : why_not_in_profile(dense_shape, StudentProfile::glm4_moe)));
  }
  if (config.method != CarveMethod::clusters) report.metrics()["method"] = method_name(config.method);
  if (layers.front().quality.analytic_error >= 0) {
    const double error = mean_of(layers, &CarveQuality::analytic_error);
    report.metrics()["analytic_error"] = error;
    report.summary.push_back(fmt::format("with {}'s own router, which is not linear: FFN output error {:.3f}", method_name(config.method), error));
  }
  if (attempts.size() > 1) {
    std::string line = "shared experts, by mean error after recovery:";
    for (const SharedAttempt& a : attempts) {
      line += fmt::format("{} {} with {} of {} routed {:.3f}", &a == &attempts.front() ? "" : ",", a.options.shared, a.options.top_k,
                          a.options.experts, a.recovered_error);
      report.metrics()["shared_tried"].push_back({{"shared", a.options.shared},
                                                  {"experts", a.options.experts},
                                                  {"top_k", a.options.top_k},
                                                  {"recovered_error", a.recovered_error}});
    }
    report.summary.push_back(line);
  }
  report.summary.push_back(tried_line(layers));
  report.summary.push_back(fmt::format("error after recovery {:.3f}; with the best experts for each token {:.3f}: the oracle gap",
                                       mean_of(layers, &CarveAttempt::recovered_error),
                                       mean_of(layers, &CarveAttempt::recovered_oracle_error)));
  if (!tying.empty()) report.summary.push_back(tying);
  if (shape.moe_intermediate_size % 32 != 0)
    report.summary.push_back("note: the expert width is not a multiple of 32, so GGUF block formats of 32 columns cannot store the experts");
  return report;
}

}  // namespace overproof
