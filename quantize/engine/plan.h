#pragma once
// Decides what each tensor of a checkpoint becomes, before any of its bytes are read.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/json_fwd.h"
#include "formats/tensor_source.h"
#include "formats/weight_dtype.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

class Calibration;

/// Which weights are quantized, and how. Patterns match whole tensor names; '*' matches any text.
struct PlanOptions {
  std::string scheme = "int8";
  SchemeOptions scheme_options;             ///< of all schemes, those of overrides included
  StringList include;                       ///< weights that get the main scheme (empty: default_include()) ...
  StringList exclude;                       ///< ... unless one of these matches
  StringPairs overrides;                    ///< pattern and scheme, or pattern and "none" (keep); the first match decides
  WeightDType kept_dtype = WeightDType::automatic;  ///< of matrices that are kept; automatic: 16 bits, bf16 unless they are f16
};

/// One tensor of the source.
struct PlanItem {
  TensorInfo source;
  const Scheme* scheme = nullptr;   ///< owned by the plan; null: the tensor keeps its values
  DType kept_as = DType::f32;       ///< dtype in the output of a kept tensor
  std::vector<TensorInfo> outputs;  ///< the tensors that replace it, in the order of their bytes
  bool must_be_finite = false;      ///< refuse infinities and NaNs although the tensor is kept
};

struct Plan {
  std::vector<std::unique_ptr<Scheme>> schemes;  ///< the first is the main one; others come from overrides and fallbacks
  std::vector<PlanItem> items;                   ///< in the order of the output's bytes
  std::vector<TensorInfo> outputs;               ///< of all items, in order
  std::vector<std::string> ignored;              ///< kept modules with a matrix, which loaders would else expect quantized
  std::vector<std::string> not_taken;            ///< chosen weights that their scheme cannot hold: kept
  std::vector<std::string> fallen_back;          ///< chosen weights that got their scheme's fallback
  std::vector<std::string> fused;                ///< chosen stacks of experts in one tensor: kept, except in GGUF
  int64_t quantized = 0, bytes_in = 0;
  std::string assumption;                    ///< what was guessed about an unknown architecture; else empty
  const Calibration* calibration = nullptr;  ///< null without calibration; thread-safe
};

/// The patterns of a scheme where the user gives none: the Linear weights of the layers; the head where the inputs of weights are not
/// rounded (a head of 8-bit inputs costs more than all layers); in GGUF also the embedding, as llama-quantize has it.
StringList default_include(const Scheme& scheme);

/// Chooses a scheme for each tensor: overrides first, then include and exclude. Only Linear weights, by their role
/// (formats/architecture.h), get one, in GGUF the embedding too; routers, norms and multi-token-prediction layers never do, nor a head
/// that the model does not use because its embedding is tied.
/// Routers, norms and vectors keep their values and dtype; of other matrices `kept_dtype` decides. Throws UsageError
/// when no weight is chosen, when a pattern matches no weight, when schemes do not fit into one container, and when the weights
/// of a fused_unit() would get different schemes, which runtimes do not load; FormatError when two outputs have one name.
Plan make_plan(const PlanOptions& options, const Checkpoint& model);

/// Weights that runtimes multiply at once, or load by one rule, and that therefore need one scheme: "...mlp.experts" for all
/// experts of a layer, "...self_attn.qkv", "...mlp.gate_up", "...self_attn.qkv_a" for the compressed q and kv of DeepSeek; else the
/// weight's own name.
std::string fused_unit(std::string_view weight);

/// config.json's quantization_config. With one scheme: one group for every Linear that is not ignored. With more: one group per
/// scheme, with its modules as targets.
Json quantization_config(const Plan& plan);

/// Patterns that match each of `modules` and none of `others`: "re:^model\.layers\.\d+\.self_attn\.q_proj$" where every number
/// can be a wildcard, else with a wildcard for the expert's number only, else the name itself. Sorted.
std::vector<std::string> module_patterns(const std::vector<std::string>& modules, const std::vector<std::string>& others);

/// True when all of `text` matches `pattern`, in which '*' matches any run of characters.
bool matches_pattern(std::string_view text, std::string_view pattern);

}  // namespace overproof
