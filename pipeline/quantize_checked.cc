#include "pipeline/quantize_checked.h"

#include "pipeline/torch_functions.h"

namespace overproof {

StageReport run_quantize_checked(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  if (config.needs() == Needs::nothing) return run_quantize(config.quantize, inputs, outputs);
  return TorchFunction<decltype(quantize_and_measure)>::call(config, inputs, outputs);
}

}  // namespace overproof
