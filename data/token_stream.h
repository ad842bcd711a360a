#pragma once
// What corpus/tokens.safetensors says of itself (data/corpus.h).

#include "formats/safetensors.h"

namespace overproof {

/// A number in its metadata. Throws FormatError when it is missing or out of bounds.
int64_t stream_number(const SafetensorsFile& stream, const char* key, int64_t least, int64_t most);

}  // namespace overproof
