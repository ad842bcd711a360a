#include "pipeline/quantize_checked.h"

#include "formats/tensor_name.h"
#include "pipeline/torch_functions.h"

namespace overproof {

std::string fused_unit(const std::string& weight) {
  using Part = TensorName::Part;
  const TensorName name = TensorName::parse(weight);
  if (name.expert >= 0) return std::string(name.expert_prefix.substr(0, name.expert_prefix.size() - 1));
  const std::string unit(name.unit);
  if (!name.bias && (name.part == Part::q || name.part == Part::k || name.part == Part::v)) return unit + ".qkv";
  if (!name.bias && (name.part == Part::gate || name.part == Part::up)) return unit + ".gate_up";
  return weight;
}

StageReport run_quantize_checked(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  if (config.needs() == Needs::nothing) return run_quantize(config.quantize, inputs, outputs);
  return TorchFunction<decltype(quantize_and_measure)>::call(config, inputs, outputs);
}

}  // namespace overproof
