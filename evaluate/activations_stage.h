#pragma once
// The `activations` stage: runs a model over training windows and records the inputs of each Linear, for 8-bit calibration.
// Writes records/activation_statistics.h's file.

#include <cstdint>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct ActivationsConfig {
  int64_t tokens = 4096;
  int64_t batch_size = 4;
  int64_t samples = 256;
  int64_t min_tokens = 256;
  bool hessians = false;
  int64_t seed = 0;

  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, in_range(1, 1 << 24), "training tokens to run, rounded up to whole windows");
    v("batch-size", batch_size, in_range(1, 4096), "windows run through a layer at once");
    v("samples", samples, in_range(1, 65536), "rows of each input that are kept, for searching smoothing strengths");
    v("min-tokens", min_tokens, in_range(0, 1 << 24),
      "an expert that the router sends fewer tokens also gets those with the highest router score, up to this many");
    v("hessians", hessians, any_value(), "keep second moments, which gptq needs: [in, in] floats for each input");
    v("seed", seed, seed_value(), "chooses the windows");
  }
};

/// Slots: model (any checkpoint that the decoder runs), corpus. Only windows of the train split are used.
///
/// The model runs layer by layer: all windows through one layer before the next. In memory: the weights of one layer, the residual stream
/// (tokens x hidden x 4 bytes), of a mixture-of-experts layer once more as much for its FFN's input, one batch's activations, and
/// the statistics of one layer. Finished layers are written to the scratch folder, and with them the residual stream, so that a
/// killed run resumes after its last whole layer and ends with the same bytes. Inputs are recorded before any rounding that the
/// checkpoint itself requires; the residual stream is computed from the rounded ones.
///
/// An expert's forced tokens are part of its amax, range, samples and Hessian; they do not touch the residual stream.
/// The file: about samples x in x 2 bytes an input and, with hessians, in^2 x 4 (SmolLM2-135M: 50 MB and 450 MB).
/// Metrics: tokens, windows, layers, groups, experts {total, topped_up, below_min_tokens, forced_tokens}.
StageReport run_activations(const ActivationsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
