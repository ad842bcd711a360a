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
  std::string include = "model.layers.*";
  std::string exclude;
  std::string overrides;
  int64_t block_bytes = EngineOptions::kDefaultBlockBytes;
  int64_t max_shard_bytes = 5'000'000'000;

  template <class V>
  void visit(V&& v) {
    v("scheme", scheme, one_of(scheme_names()), "how a Linear weight becomes 8 bits; int8: per output channel, weights only");
    v("clipping", clipping, one_of({"absmax", "mse"}),
      "scale of a row: its largest magnitude / 127, or the clipped one with the least squared error");
    v("include", include, any_value(),
      "patterns of Linear weights to quantise, apart by commas, * for any text; routers and embeddings never are");
    v("exclude", exclude, any_value(), "patterns of weights to leave at their precision, e.g. *.down_proj.weight");
    v("overrides", overrides, any_value(),
      "other schemes for some weights, PATTERN=SCHEME apart by commas, before include and exclude, the first match deciding; "
      "none: keep");
    v("block-bytes", block_bytes, in_range(1 << 16, double(int64_t{1} << 26)),
      "bytes read, worked on and written at a time; changes no result");
    v("max-shard-bytes", max_shard_bytes, at_least(1 << 20), "largest safetensors file; more become shards with an index");
  }
};

/// Slot "model": what open_checkpoint reads; its tensor files are digested while they are read. Writes config.json (with
/// quantization_config), safetensors, and the tokenizer files. Throws UsageError when nothing matches, FormatError naming the
/// tensor and row of an infinity or NaN.
/// Metrics: tensors, quantised, kept, bytes_in, bytes_out, sqnr_db {mean, worst, worst_tensor}, tensors_sqnr {name: dB}.
StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
