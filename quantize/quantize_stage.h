#pragma once
// The `quantize` stage: reads a checkpoint and writes an 8-bit checkpoint that existing runtimes load.
//
// Weights stream in blocks of rows (quantize/engine/engine.h), so memory does not grow with the model: the peak is a few times
// `block-bytes`, the scales of the tensors in flight, and the list of tensors. Output bytes depend on configuration and input
// only, not on threads or processor.

#include <cstdint>
#include <optional>
#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "quantize/engine/engine.h"
#include "quantize/engine/plan.h"
#include "quantize/gpu/gpu.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

struct QuantizeConfig {
  std::string scheme = "int8";
  Clipping clipping = Clipping::absmax;
  bool per_tensor = false, asymmetric = false;
  StringList include, exclude;
  StringPairs overrides;
  WeightDType kept_dtype = WeightDType::automatic;
  int64_t block_bytes = EngineOptions::kDefaultBlockBytes;
  int64_t max_shard_bytes = 5'000'000'000;
  bool smooth = false;
  std::optional<double> smooth_strength;
  bool gptq = false;
  double dampening = 0.01;
  bool act_order = false;
  int64_t min_tokens = 128;
  DeviceChoice device = DeviceChoice::cpu;
  std::string name;
  StringList acknowledge;

  template <class V>
  void visit(V&& v) {
    v("scheme", scheme, one_of(scheme_names()),
      "8-bit format of Linear weights. int8: one scale per output channel; int8-g128: one per 128 columns; w8a8, w8a8-static: "
      "int8 "
      "weights and activations; fp8, fp8-block, fp8-native (DeepSeek), mxfp8; q8_0: GGUF");
    v("clipping", clipping, enum_of<Clipping>({{"absmax", Clipping::absmax}, {"mse", Clipping::mse}}),
      "scale of a row: absmax is the largest magnitude over the largest code, mse the clipped scale with the least squared "
      "error");
    v("per-tensor", per_tensor, any_value(), "fp8: one scale per weight instead of one per output channel");
    v("asymmetric", asymmetric, any_value(), "w8a8, w8a8-static: activations get a zero point");
    v("include", include, any_value(),
      "comma-separated patterns of Linear weights to quantize; * matches any text; routers never are, embeddings only in GGUF. "
      "Default: "
      "model.layers.*, lm_head.weight for schemes that leave activations alone, and model.embed_tokens.weight for q8_0");
    v("exclude", exclude, any_value(), "comma-separated patterns of weights to keep, e.g. *.o_proj.weight");
    v("overrides", overrides, any_value(),
      "comma-separated PATTERN=SCHEME, or PATTERN=none to keep weights; the first match decides, before include and exclude");
    v("kept-dtype", kept_dtype,
      enum_of<WeightDType>(
          {{"auto", WeightDType::automatic}, {"bf16", WeightDType::bf16}, {"f16", WeightDType::f16}, {"f32", WeightDType::f32}}),
      "type of matrices that are not quantized; auto: bf16, or f16 if they are; routers and vectors stay as they are");
    v("block-bytes", block_bytes, in_range(1 << 16, double(int64_t{1} << 26)),
      "bytes read, converted and written at a time; does not change the result");
    v("max-shard-bytes", max_shard_bytes, at_least(1 << 20),
      "size of a safetensors file above which shards with an index are written");
    v("smooth", smooth, any_value(),
      "SmoothQuant: move outliers of activations into weights; needs --activations and a scheme that rounds activations");
    v("smooth-strength", smooth_strength, or_word("auto", in_range(0, 1)),
      "smooth: how far outliers are moved, 0 to 1, or auto: searched for each site by the error of its outputs");
    v("gptq", gptq, any_value(),
      "GPTQ: compensate each column's rounding error in the later columns; needs --activations recorded with --hessians");
    v("dampening", dampening, in_range(1e-6, 1), "gptq: fraction of the Hessian's mean diagonal that is added to its diagonal");
    v("act-order", act_order, any_value(), "gptq: round the columns with the largest inputs first");
    v("min-tokens", min_tokens, in_range(1, 1 << 24), "weights whose input saw fewer tokens are quantized without calibration");
    v("device", device,
      enum_of<DeviceChoice>({{"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}, {"auto", DeviceChoice::automatic}}),
      "where codes are computed: cuda needs a GPU, auto uses one if there is one; same bytes");
    v("name", name, any_value(), "q8_0: general.name of the file; empty: none");
    v("acknowledge", acknowledge, any_value(),
      "q8_0: comma-separated names of licences and terms that you have reviewed and the policy asks for, as for export");
  }
};

/// Slot "model": anything that open_checkpoint reads; its tensor files are digested while they are read. Slot "activations",
/// optional: the artifact that the activations stage made from that model. Writes config.json (with quantization_config),
/// safetensors and the tokenizer files; for GGUF schemes model.gguf only. Throws UsageError when no weight matches or an option
/// does not fit the scheme, MismatchError when the activations are not of this model, FormatError naming tensor and row of an
/// infinity or NaN.
/// Metrics: tensors, quantized, kept, bytes_in, bytes_out, sqnr_db {mean, worst, worst_tensor}, tensors_sqnr {name: dB}, and
/// where they apply: calibration (Calibration::metrics), assumption, notes, and fallen_back (weights that int8-g128 cannot hold,
/// which are int8 in a config group of their own).
StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
