#pragma once
// Stage "prune-experts": a mixture of experts with fewer routed experts, chosen or merged by what they did on a sample of a corpus.
// prune/expert_choice.h chooses, prune/expert_cut.h writes.

#include "core/config.h"
#include "core/stage.h"
#include "prune/expert_cut.h"

namespace overproof {

struct PruneExpertsConfig {
  enum class Method { frequency, reap, merge };
  enum class Shares { frequency, equal };
  double keep = 0.5;
  Method method = Method::reap;
  bool protect = true;
  Shares shares = Shares::frequency;
  WeightDType dtype = WeightDType::automatic;
  template <class V>
  void visit(V&& v) {
    v("keep", keep, in_range(0.001, 1.0), "fraction of the routed experts that each layer has afterwards, rounded to whole ones, at least 2");
    v("method", method, enum_of<Method>({{"frequency", Method::frequency}, {"reap", Method::reap}, {"merge", Method::merge}}),
      "frequency: the experts that most tokens are sent to stay; reap: those with the largest mean of router weight times norm of the output; merge: "
      "experts with similar outputs become one, by HC-SMoE");
    v("protect-super-experts", protect, any_value(), "keep experts whose outputs have the largest elements of the model, whatever their score");
    v("merge-weights", shares, enum_of<Shares>({{"frequency", Shares::frequency}, {"equal", Shares::equal}}),
      "of merge: an expert's part in the average, by the tokens sent to it, or the same for all");
    visit_weight_dtype(v, dtype);
  }
};

/// Slots: student (a mixture whose router does not choose among groups, not quantized) and statistics (experts.safetensors, which observe made of it). Writes the smaller
/// checkpoint, its tokenizer, and the router counts of the experts where the student has some. num_experts_per_tok stays, lowered where fewer experts are left.
/// reap: REAP (Lasby et al. 2025, arXiv 2510.13999), its saliency with the weights of a token's chosen experts divided by their sum. merge: the
/// matrices, router rows and biases of a cluster are averaged; tokens that would have chosen two members now have one expert for it.
/// Throws MismatchError for statistics of another model or without experts, UsageError when more experts are protected than kept.
StageReport run_prune_experts(const PruneExpertsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
