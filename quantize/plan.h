#pragma once
// Which weight of a checkpoint becomes what: decided whole before a byte is read.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_fwd.h"
#include "formats/tensor_source.h"
#include "quantize/scheme.h"

namespace overproof {

class Calibration;
struct QuantizeConfig;

/// One tensor of the source on its way.
struct PlanItem {
  TensorInfo source;
  const Scheme* scheme = nullptr;   ///< owned by the plan; null: the tensor keeps its values
  DType kept_as = DType::f32;       ///< dtype in the output of a tensor that is kept
  std::vector<TensorInfo> outputs;  ///< what stands in its place, in the order of bytes
  bool must_be_finite = false;      ///< infinities and NaNs are refused in a tensor that is kept, too
};

struct Plan {
  std::vector<std::unique_ptr<Scheme>> schemes;  ///< the first is the main one; others come from overrides and fallbacks
  std::vector<PlanItem> items;                   ///< in the order of the output's bytes
  std::vector<TensorInfo> outputs;               ///< everything that will be written, to be declared to the sink
  std::vector<std::string> ignored;              ///< modules with a matrix that loaders might take for quantised
  std::vector<std::string> not_taken;            ///< weights that were to be quantised but that the scheme cannot hold
  std::vector<std::string> fallen_back;          ///< weights that got their scheme's fallback instead
  std::vector<std::string> fused;  ///< chosen stacks of experts in one tensor, which only formats that stack them (GGUF) can hold
  int64_t quantised = 0, bytes_in = 0;
  std::string assumption;                    ///< what was guessed of an unknown architecture; empty else
  const Calibration* calibration = nullptr;  ///< null without; asked by any thread
};

/// Chooses for each tensor: `--overrides` first, the first pattern that matches deciding, then include and exclude. Only Linear
/// weights are, by their role (formats/architecture.h): routers, norms, embeddings and layers for further tokens never. Throws
/// UsageError when nothing is to be quantised, when an override matches nothing, and when the projections of one expert would get
/// different schemes, which no runtime loads.
Plan make_plan(const QuantizeConfig& config, const Checkpoint& model);

/// config.json's quantization_config. One scheme: one group for every Linear but those ignored. More: a group each, with its
/// modules as targets.
Json quantization_config(const Plan& plan);

/// Patterns that match each of `modules` and none of `others`: "re:^model\.layers\.\d+\.self_attn\.q_proj$" where all numbers can
/// be left open, else with the expert's number open, else the name itself. Sorted.
std::vector<std::string> module_patterns(const std::vector<std::string>& modules, const std::vector<std::string>& others);

/// True when `text` matches `pattern`, in which '*' stands for any run of characters.
bool matches_pattern(std::string_view text, std::string_view pattern);

}  // namespace overproof
