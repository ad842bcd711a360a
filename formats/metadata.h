#pragma once
// Entries of a safetensors file's metadata. All throw FormatError naming file and entry when it is missing or invalid.

#include <cstdint>
#include <string>

#include "core/digest.h"
#include "formats/safetensors.h"

namespace overproof {

const std::string& metadata_text(const SafetensorsFile& file, const std::string& key);
/// A whole number from `least` to `most`.
int64_t metadata_integer(const SafetensorsFile& file, const std::string& key, int64_t least, int64_t most = INT64_MAX);
double metadata_number(const SafetensorsFile& file, const std::string& key, double least, double most);
/// SHA-256 in hex.
Digest metadata_digest(const SafetensorsFile& file, const std::string& key);

}  // namespace overproof
