#pragma once
// JSON for configuration, records and statements. Include core/json_fwd.h in headers: the full header costs seconds.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace overproof {

using Json = nlohmann::json;  // objects sort their keys, so dump() is canonical for a given value

/// Parses a whole text file; throws FormatError with the byte offset of the fault. Duplicate object keys are refused.
/// `max_bytes` bounds what is read (hostile input).
Json read_json(const std::filesystem::path& file, int64_t max_bytes = int64_t{256} << 20);

/// Parses text that came from `file` (for the message only), starting `base_offset` bytes into it.
Json parse_json(std::string_view text, const std::filesystem::path& file, int64_t base_offset = 0);

}  // namespace overproof
