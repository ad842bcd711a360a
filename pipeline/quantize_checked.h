#pragma once
// `quantize` with its quality measured: the 8-bit model against its parent on held-out text, a bound that the result must keep,
// and mixed precision for a budget. Here because quantize/ knows no model and evaluate/ no quantising.

#include <string>

#include "quantize/quantize_stage.h"

namespace overproof {

struct CheckedQuantizeConfig {
  QuantizeConfig quantize;
  bool evaluate = false;
  int64_t evaluate_tokens = 4096;
  double max_kl = 0, kl_budget = 0;
  bool measures() const { return evaluate || max_kl > 0 || kl_budget > 0; }
  template <class V>
  void visit(V&& v) {
    quantize.visit(v);
    v("evaluate", evaluate, any_value(),
      "measure KL, perplexity and agreement against the parent on the held-out windows of --corpus, or on --text");
    v("evaluate-tokens", evaluate_tokens, in_range(1, 1e9), "tokens to measure on, in whole windows");
    v("max-kl", max_kl, in_range(0, 1e3), "refuse to finish with a mean KL to the parent above this, nats a token; 0: no bound");
    v("kl-budget", kl_budget, in_range(0, 1e3),
      "leave as few weights as it takes, the noisiest first, at their precision to keep the mean KL below this; 0: none");
  }
};

/// Slots of run_quantize, and "corpus" (its held-out windows) or "text" (a file or folder). Adds the metric "quality" {tokens,
/// kl_mean, kl_p99, perplexity_ratio, top1_agreement} and, with a budget, "kept_for_budget" and how many trials it took.
///
/// The budget assumes that keeping more weights never makes the KL worse, and bisects over how many are kept: about
/// log2(weights) trials, each of which quantises and measures. Weights that runtimes fuse (q, k, v; gate, up; all of an expert)
/// stay together. Throws QualityError naming the noisiest weights when a bound cannot be kept; UsageError without text to measure
/// on.
StageReport run_quantize_checked(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

/// Weights that must have one scheme: the expert's for all three of its projections, "...self_attn.qkv", "...mlp.gate_up", else
/// the weight's own name.
std::string fused_unit(const std::string& weight);

}  // namespace overproof
