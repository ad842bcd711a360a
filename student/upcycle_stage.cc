#include "student/upcycle_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/tokenizer_files.h"
#include "student/certificate.h"
#include "student/ffn.h"
#include "student/upcycle.h"

namespace overproof {
namespace {

constexpr int64_t kCertificateWindow = 256;

/// Ids drawn at random, I64 [windows, length].
at::Tensor random_windows(int64_t tokens, int64_t vocab, int64_t max_position, uint64_t seed) {
  const int64_t length = std::min({kCertificateWindow, tokens, max_position}), windows = (tokens + length - 1) / length;
  std::vector<int64_t> ids(static_cast<size_t>(windows * length));
  Rng rng(seed, "upcycle/certificate");
  for (int64_t& id : ids) id = int64_t(rng.below(uint64_t(vocab)));
  return at::tensor(ids).view({windows, length});
}

}  // namespace

StageReport run_upcycle(const UpcycleConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const fs::path& path = inputs.path("teacher");
  const Checkpoint checkpoint = open_checkpoint(path);
  Decoder parent = open_dense_teacher(path);
  const DType dtype = written_dtype(config.dtype, checkpoint);
  const bool parent_ties = parent.config().tie_embeddings || at::equal(parent.head(), parent.weights().embedding);
  const UpcycleOptions options{.copies = config.copies,
                               .split = config.split,
                               .top_k = config.top_k > 0 ? config.top_k : config.split,
                               .drop = config.drop,
                               .router_deviation = config.router_deviation,
                               .seed = uint64_t(config.seed),
                               .tie = resolve_tie(config.tie, parent_ties, /*needs_head=*/true)};
  const ModelConfig shape = upcycled_config(parent.config(), options);
  Decoder student(shape, UpcycledTensors(*checkpoint.tensors, parent, shape, options));
  round_weights(student, dtype);
  round_weights(parent, dtype);

  const double active = double(shape.active_parameters()) / double(shape.parameters());
  StageReport report;
  report.metrics() = {{"parameters", shape.parameters()},
                      {"active_parameters", shape.active_parameters()},
                      {"active_fraction", active},
                      {"ffn_activation", shape.ffn_activation()},
                      {"parent_parameters", parent.config().parameters()},
                      {"exact", upcycles_exactly(options)}};
  report.summary = {fmt::format("{} copies of each FFN in {} parts: {} experts of width {}, {} active", options.copies, options.split,
                                shape.n_routed_experts, shape.moe_intermediate_size, shape.top_k),
                    fmt::format("{:.1f} million parameters (parent {:.1f}), {:.1f} active: {:.2f} %", double(shape.parameters()) / 1e6,
                                double(parent.config().parameters()) / 1e6, double(shape.active_parameters()) / 1e6, 100 * active)};
  if (upcycles_exactly(options)) {
    Certificate certificate = certify_same_logits(
        parent, student, random_windows(config.certificate_tokens, shape.vocab_size, shape.max_position, options.seed));
    certificate.dtype = dtype;
    if (!certificate.holds())
      throw DivergenceError(fmt::format("{}: the upcycled student's logits differ from this parent's by {:.3g}, at logits up to {:.3g}",
                                        path.string(), certificate.largest_difference, certificate.largest_logit));
    report.metrics()["certificate"] = certificate.to_json();
    outputs.folder().write_file("certificate.json", certificate.to_json().dump(1) + "\n");
    report.summary.push_back(fmt::format("certificate: logits differ from the parent's by at most {:.2g} over {} random tokens (largest logit {:.1f})",
                                         certificate.largest_difference, certificate.tokens, certificate.largest_logit));
  } else {
    report.summary.push_back(options.drop > 0 ? "weights were drawn anew, so the student differs from its parent until it is trained"
                                              : "a token uses parts of a copy only, so the student differs from its parent");
  }
  save_decoder(student, outputs.folder(), dtype);
  copy_companions_noted(path, outputs.folder());
  record_dtype(report.metrics(), dtype);
  const std::string tying =
      record_tie(report.metrics(), config.tie, parent_ties, options.tie, shape.vocab_size * shape.hidden_size * dtype_bytes(dtype));
  if (!tying.empty()) report.summary.push_back(tying);
  return report;
}

}  // namespace overproof
