#pragma once
// What save_decoder() writes next to the weights, alone.

#include "model/decoder.h"

namespace overproof {

/// config.json and generation_config.json of a checkpoint whose weights have this type.
void save_decoder_config(const Decoder& decoder, OutputFolder& folder, DType dtype);

}  // namespace overproof
