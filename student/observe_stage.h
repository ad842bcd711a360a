#pragma once
// Stage "observe": runs a model over a sample of training windows and records what its layers receive and do. One pass serves every
// method that carves, prunes or quantizes the model:
//   statistics.safetensors   of dense FFNs (records/ffn_statistics.h)
//   experts.safetensors      of mixtures (records/expert_statistics.h)
//   activations.safetensors  of the inputs of all Linears, with --linears or --hessians (records/activation_statistics.h)

#include "core/config.h"
#include "core/stage.h"
#include "model/compute.h"

namespace overproof {

struct ObserveConfig {
  int64_t tokens = 4096;
  int64_t batch_size = 4;
  bool gradients = false;
  bool linears = false, hessians = false;
  int64_t samples = 256;
  int64_t min_tokens = 256;
  int64_t seed = 0;
  Compute compute = Compute::automatic;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, in_range(1, 1 << 24), "training tokens to observe, rounded up to whole windows");
    v("batch-size", batch_size, in_range(1, 4096), "windows run through a layer at once");
    v("gradients", gradients, any_value(),
      "also record the first-order importance of each FFN neuron, which prune-neurons --method taylor needs: a second pass, backwards");
    v("linears", linears, any_value(), "also record the inputs of all Linears, as activations does; prune-weights --method wanda needs them");
    v("hessians", hessians, any_value(), "with second moments, [in, in] floats for each input: prune-weights --method sparsegpt, quantize --gptq");
    v("samples", samples, in_range(1, 65536), "rows of each Linear's input that are kept");
    v("min-tokens", min_tokens, in_range(0, 1 << 24), "of Linears: an expert that gets fewer tokens is also recorded on those with the highest router score");
    v("seed", seed, in_range(0, 9007199254740991.0), "chooses the observed windows");
    visit_compute(v, compute);
  }
};

/// Slots: teacher (any checkpoint that the decoder runs), corpus. Only windows of the training split are used. The model passes layer by
/// layer. In memory: one layer's weights in f32, the residual stream (tokens x hidden x 4 bytes, a second one in a mixture or with
/// gradients), one batch's activations, and what is observed of one layer (dense: tokens x hidden x 2 bytes; with hessians in^2 x 4 an input);
/// with gradients the head as well. With gradients the scratch folder holds the stream before each layer, layers x tokens x hidden x 4 bytes.
/// Throws MismatchError when model and corpus have different tokenizers, UsageError for gradients of a mixture or of a
/// model that rounds its activations.
StageReport run_observe(const ObserveConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
