#include "student/carve_stage.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

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

std::string_view cluster_name(ClusterBy by) { return by == ClusterBy::contribution ? "contribution" : "coactivation"; }

Json layer_record(int64_t layer, const LayerCarving& carving) {
  const CarveQuality& q = carving.quality;
  Json tried = Json::array();
  for (const CarveAttempt& a : carving.attempts)
    tried.push_back({{"clusters", cluster_name(a.clusters)},
                     {"refits", a.refits},
                     {"recovered_error", a.recovered_error},
                     {"recovered_oracle_error", a.recovered_oracle_error}});
  return {{"layer", layer},
          {"tried", std::move(tried)},
          {"taken", carving.best},
          {"recall", q.recall},
          {"centroid_recall", q.centroid_recall},
          {"router_error", q.router_error},
          {"oracle_error", q.oracle_error},
          {"static_error", q.static_error},
          {"load_spread", q.load_spread}};
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
    line += fmt::format("{} {}{} {:.3f} (taken in {} layers)", i ? "," : "", cluster_name(attempts[i].clusters),
                        attempts[i].refits ? fmt::format(" refitted {} x", attempts[i].refits) : "", error, taken);
  }
  return line;
}

}  // namespace

StageReport run_carve(const CarveConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const FfnStatistics statistics(inputs.path("statistics"));
  const Checkpoint checkpoint = open_checkpoint(inputs.path("teacher"));
  Decoder teacher = open_dense_teacher(inputs.path("teacher"));
  const ModelConfig& dense_shape = teacher.config();
  statistics.require_teacher(inputs.root("teacher"), dense_shape.layers, dense_shape.hidden_size, dense_shape.intermediate_size);

  const DType dtype = written_dtype(config.dtype, checkpoint);
  const bool teacher_ties = dense_shape.tie_embeddings || at::equal(teacher.head(), teacher.weights().embedding);
  const bool tie = resolve_tie(config.tie, teacher_ties, /*needs_head=*/true);
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
                       .tie = tie};
  for (const std::string& name : config.clusters)
    options.clusters.push_back(name == "coactivation" ? ClusterBy::coactivation : ClusterBy::contribution);
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
        const LayerWeights& dense = teacher.layers()[size_t(l)];
        const at::Tensor input = at::tensor(statistics.ffn_input(l)).view({-1, shape.hidden_size});
        const LayerCarving& carved = layers[size_t(l)] = carve_layer(dense.gate_up, dense.down, input, options, l);
        const CarveQuality& q = carved.quality;
        const std::lock_guard lock(reporting);
        progress.update(++done,
                      fmt::format("recall {:.2f}, error {:.3f} (static {:.3f}), recovered {:.3f}", q.recall, q.router_error,
                                    q.static_error, carved.attempts[carved.best].recovered_error));
      }
    });
  }

  Decoder student(shape, CarvedTensors(*checkpoint.tensors, teacher, shape, layers));
  // The certificate is of the weights that are written, so both are rounded; for a teacher of the same dtype this changes nothing.
  round_weights(student, dtype);
  round_weights(teacher, dtype);
  const int64_t length = statistics.shape().window_length;
  const std::vector<int64_t> ids = statistics.ids((config.certificate_tokens + length - 1) / length, shape.vocab_size);
  Certificate certificate = certify_equivalence(teacher, student, at::tensor(ids).view({-1, length}));
  certificate.dtype = dtype;
  if (!certificate.holds())
    throw DivergenceError(fmt::format(
        "{}: with all experts active and a zero gate the carved student's logits differ from this teacher's by {:.3g}, at logits up to "
        "{:.3g}",
        inputs.path("teacher").string(), certificate.largest_difference, certificate.largest_logit));

  Json per_layer = Json::array();
  for (size_t l = 0; l < layers.size(); ++l) per_layer.push_back(layer_record(int64_t(l), layers[l]));
  save_decoder(student, outputs.folder(), dtype);
  copy_companions(inputs.path("teacher"), outputs.folder());
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
                  config.experts, config.shared, shape.moe_intermediate_size, config.top_k),
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
