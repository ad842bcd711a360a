#pragma once
// Stage "prune-neurons": keeps the most important FFN neurons in each layer and removes the others. There is no routing: this is the
// baseline that a sparse student with the same number of active neurons has to beat. prune/neuron_scores.h ranks neurons,
// prune/ffn_cut.h removes them.

#include "core/config.h"
#include "core/stage.h"
#include "prune/ffn_cut.h"
#include "prune/neuron_scores.h"

namespace overproof {

struct PruneNeuronsConfig {
  enum class Bias { automatic, yes, no };
  double keep = 0.25;
  NeuronMethod method = NeuronMethod::flap;  // the best on SmolLM2 (docs/student.md)
  Bias bias = Bias::no;
  CutOptions written;
  template <class V>
  void visit(V&& v) {
    v("keep", keep, in_range(0.001, 1.0), "fraction of FFN neurons to keep in each layer, rounded to a multiple of 32 neurons");
    v("method", method, enum_of<NeuronMethod>({{"active", NeuronMethod::active}, {"flap", NeuronMethod::flap}, {"taylor", NeuronMethod::taylor}}),
      "which neurons stay. active: those that add most to the residual stream; flap: those whose activation varies most, by FLAP; taylor: those "
      "whose removal changes the loss most, by LLM-Pruner's first-order criterion, of statistics with gradients");
    v("bias", bias, enum_of<Bias>({{"auto", Bias::automatic}, {"yes", Bias::yes}, {"no", Bias::no}}),
      "give down_proj a bias that replaces the mean of what removed neurons gave, as FLAP's paper does; recover gives as much without it. auto: with "
      "flap, where the architecture has such a bias (llama's mlp_bias)");
    written.visit(v);
  }
};

/// Slots "teacher" (a dense checkpoint) and "statistics" (statistics.safetensors). Writes a dense checkpoint of the teacher's architecture
/// and dtype with the smaller intermediate_size, and the tokenizer files; with a bias, mlp_bias and biases of all three projections, those of
/// gate and up zero where the teacher has none. Throws FormatError when a tensor or statistic is missing or has another shape than the
/// configuration gives it, MismatchError when the statistics belong to another model, lack what the method needs, or the architecture has
/// no bias and one is asked for.
StageReport run_prune_neurons(const PruneNeuronsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
