#pragma once
// The `quantize` stage: a checkpoint in, an 8-bit checkpoint out that other people's runtimes load.
//
// Weights stream in blocks of rows (quantize/engine.h), so memory does not grow with the model: the peak is a few times
// `block-bytes`, the scales of the tensors at hand, and the list of tensors. Output bytes depend on configuration and input
// alone, never on threads or processor.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "quantize/engine.h"
#include "quantize/plan.h"
#include "quantize/scheme.h"

namespace overproof {

struct QuantizeConfig {
  std::string scheme = "int8";
  std::string clipping = "absmax";
  bool per_tensor = false, asymmetric = false;
  std::string include = "model.layers.*";
  std::string exclude;
  std::string overrides;
  int64_t block_bytes = EngineOptions::kDefaultBlockBytes;
  int64_t max_shard_bytes = 5'000'000'000;
  bool smooth = false;
  std::string smooth_strength = "auto";
  bool gptq = false;
  double dampening = 0.01;
  bool act_order = false;
  int64_t min_tokens = 128;
  std::string device = "cpu";

  template <class V>
  void visit(V&& v) {
    v("scheme", scheme, one_of(scheme_names()),
      "how a Linear weight becomes 8 bits: int8 per output channel or in groups of 128, weights only; w8a8: int8 weights and "
      "activations; fp8 per channel, in blocks, or as DeepSeek writes it; mxfp8; q8_0: GGUF");
    v("clipping", clipping, one_of({"absmax", "mse"}),
      "scale of a row: its largest magnitude over the largest code, or the clipped one with the least squared error");
    v("per-tensor", per_tensor, any_value(), "fp8: one scale a weight in place of one an output channel");
    v("asymmetric", asymmetric, any_value(), "w8a8, w8a8-static: activations get a zero point");
    v("include", include, any_value(),
      "patterns of Linear weights to quantise, apart by commas, * for any text; routers and embeddings never are");
    v("exclude", exclude, any_value(), "patterns of weights to leave at their precision, e.g. *.o_proj.weight");
    v("overrides", overrides, any_value(),
      "other schemes for some weights, PATTERN=SCHEME apart by commas, before include and exclude, the first match deciding; "
      "none: keep");
    v("block-bytes", block_bytes, in_range(1 << 16, double(int64_t{1} << 26)),
      "bytes read, worked on and written at a time; changes no result");
    v("max-shard-bytes", max_shard_bytes, at_least(1 << 20), "largest safetensors file; more become shards with an index");
    v("smooth", smooth, any_value(),
      "move outliers of activations into weights (SmoothQuant); needs activations, and a scheme that rounds them");
    v("smooth-strength", smooth_strength, any_value(),
      "how far they are moved, 0 to 1, or auto: searched for each place by the error of its outputs");
    v("gptq", gptq, any_value(),
      "let later columns of a weight make good what rounding took from earlier ones; needs activations with --hessians");
    v("dampening", dampening, in_range(1e-6, 1), "gptq: part of the Hessian's mean diagonal that is added to it");
    v("act-order", act_order, any_value(), "gptq: columns with the largest inputs first");
    v("min-tokens", min_tokens, in_range(1, 1 << 24), "weights whose input saw fewer tokens are quantised without calibration");
    v("device", device, one_of({"cpu", "cuda", "auto"}),
      "who makes codes: cuda needs a GPU, auto takes one that is there; the bytes are the same. Not yet run on a GPU");
  }
};

/// Slot "model": what open_checkpoint reads; its tensor files are digested while they are read. Slot "activations", optional:
/// what the activations stage recorded of it. Writes config.json (with quantization_config), safetensors, and the tokenizer
/// files; for GGUF schemes model.gguf alone. Throws UsageError when nothing matches, FormatError naming the tensor and row of an
/// infinity or NaN.
/// Metrics: tensors, quantised, kept, bytes_in, bytes_out, sqnr_db {mean, worst, worst_tensor}, tensors_sqnr {name: dB},
/// and, where there is something to say, calibration (Calibration::metrics), assumption, notes and fallen_back (weights that
/// int8-g128 cannot hold, which are int8 in a config group of their own).
StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
