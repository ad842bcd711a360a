#pragma once
// How many bytes of weights one token needs: what decoding a single sequence is bound by.

#include <cstdint>

#include "core/file.h"
#include "formats/model_config.h"

namespace overproof {

/// Of the bytes in the weight files (safetensors or GGUF): everything but the routed experts that a token does not choose, and of an
/// embedding that is not the head as well a single row. A runtime that keeps weights as they are stored reads this much; a Generator
/// reads Generator::bytes_per_token(), which is more for formats that it widens (4 bits to 8). Throws FormatError for a file that cannot be read.
int64_t weight_bytes_per_token(const fs::path& checkpoint, const ModelConfig& config);

}  // namespace overproof
