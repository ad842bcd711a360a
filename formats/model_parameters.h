#pragma once
// Inside formats/: numbers of weights that may not fit 64 bits.

#include "formats/model_config.h"

namespace overproof {

/// Holds products of sizes below 2^31 with room to spare.
using WideCount = __int128;

/// As ModelConfig::parameters(), of a shape that was not checked yet.
WideCount all_parameters(const ModelConfig& config);

}  // namespace overproof
