#pragma once
// Stage "quantize", with its quality measured on request: the 8-bit model against its parent on held-out text, a bound that the
// result must keep, and mixed precision for a budget. It is in pipeline/ because quantize/ and evaluate/ do not include each other.

#include <string>

#include "pipeline/needs.h"
#include "quantize/quantize_stage.h"

namespace overproof {

struct CheckedQuantizeConfig {
  QuantizeConfig quantize;
  bool evaluate = false;
  int64_t evaluate_tokens = 4096;
  double max_kl = 0, kl_budget = 0;
  /// Measuring runs the models; quantizing alone does not.
  Needs needs() const { return evaluate || max_kl > 0 || kl_budget > 0 ? Needs::torch : Needs::nothing; }
  template <class V>
  void visit(V&& v) {
    quantize.visit(v);
    v("evaluate", evaluate, any_value(),
      "measure KL, perplexity and agreement with the parent on the held-out windows of --corpus, or on --text");
    v("evaluate-tokens", evaluate_tokens, in_range(1, 1e9), "number of tokens to measure on, in whole windows");
    v("max-kl", max_kl, in_range(0, 1e3), "fail when the mean KL to the parent is above this, in nats a token; 0: no bound");
    v("kl-budget", kl_budget, in_range(0, 1e3),
      "leave the noisiest weights unquantized, as few as keep the mean KL below this; 0: no budget");
  }
};

/// run_quantize, or quantize_and_measure where the configuration asks for a measurement.
StageReport run_quantize_checked(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

/// Slots of run_quantize, and "corpus" (its held-out windows) or "text" (a file or folder). Adds the metric "quality" {tokens,
/// kl_mean, kl_p99, perplexity_ratio, top1_agreement} and, with a budget, "kept_for_budget" and "budget_trials".
///
/// The budget assumes that keeping more weights unquantized never increases the KL, and bisects over their number: about
/// log2(weights) trials, each of which quantizes and measures. The weights of a fused_unit() are kept together; routed experts are
/// never kept in the packed formats, in which transformers does not load them in 16 bits. Throws QualityError naming the noisiest weights when a bound cannot be kept, UsageError without a text to
/// measure on, MismatchError when the corpus has another tokenizer than the model. Needs libtorch.
StageReport quantize_and_measure(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
