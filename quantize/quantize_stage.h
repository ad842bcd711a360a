#pragma once
// The `quantize` stage: a checkpoint in, an 8-bit checkpoint out that other people's runtimes load.
//
// Weights stream in blocks of rows (read, quantise, digest, write), so memory does not grow with the model: the peak is a
// few times `block-bytes`, one scale a row of the tensor at hand, and the list of tensors. No tensor is held whole. Output
// bytes depend on configuration and input alone, never on threads or processor.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "quantize/scheme.h"

namespace overproof {

struct QuantizeConfig {
  std::string scheme = "int8";
  std::string clipping = "absmax";
  std::string include = "model.layers.*";
  std::string exclude;
  int64_t block_bytes = int64_t{8} << 20;
  int64_t max_shard_bytes = 5'000'000'000;
  bool smooth = false;
  std::string smooth_strength = "auto";
  bool gptq = false;
  double dampening = 0.01;
  bool act_order = false;
  int64_t min_tokens = 128;

  template <class V>
  void visit(V&& v) {
    v("scheme", scheme, one_of(scheme_names()), "how a Linear weight becomes 8 bits; int8: per output channel, weights only");
    v("clipping", clipping, one_of({"absmax", "mse"}),
      "scale of a row: its largest magnitude / 127, or the clipped one with the least squared error");
    v("include", include, any_value(),
      "patterns of Linear weights to quantise, apart by commas, * for any text; routers and embeddings never are");
    v("exclude", exclude, any_value(), "patterns of weights to leave at their precision, e.g. *.down_proj.weight");
    v("block-bytes", block_bytes, in_range(1 << 16, double(int64_t{1} << 30)), "bytes of f32 rows worked on at a time");
    v("max-shard-bytes", max_shard_bytes, at_least(1 << 20), "largest safetensors file; more become shards with an index");
    v("smooth", smooth, any_value(), "move outliers of activations into weights (SmoothQuant); needs activations, and a scheme that rounds them");
    v("smooth-strength", smooth_strength, any_value(), "how far they are moved, 0 to 1, or auto: searched for each place by the error of its outputs");
    v("gptq", gptq, any_value(), "let later columns of a weight make good what rounding took from earlier ones; needs activations with --hessians");
    v("dampening", dampening, in_range(1e-6, 1), "gptq: part of the Hessian's mean diagonal that is added to it");
    v("act-order", act_order, any_value(), "gptq: columns with the largest inputs first");
    v("min-tokens", min_tokens, in_range(1, 1 << 24), "weights whose input saw fewer tokens are quantised without calibration");
  }
};

/// Slot "model": what open_checkpoint reads; slot "activations", optional: what the activations stage recorded of it. Writes config.json (with quantization_config), safetensors, and the tokenizer
/// files. Throws UsageError when nothing matches, FormatError naming the tensor and row of an infinity or NaN.
/// Metrics: tensors, quantised, kept, bytes_in, bytes_out, sqnr_db {mean, worst, worst_tensor}, calibration (Calibration::metrics).
StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

/// True when `text` matches `pattern`, in which '*' stands for any run of characters.
bool matches_pattern(std::string_view text, std::string_view pattern);

}  // namespace overproof
