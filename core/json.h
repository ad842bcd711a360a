#pragma once
// JSON for configuration, records and statements. Include core/json_fwd.h in headers: the full header costs seconds.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace overproof {

using Json = nlohmann::json;  // objects sort their keys, so dump() is canonical for a given value

/// Parses a whole text file. Throws FormatError with the offset of the byte at which parsing stopped. Also refused:
/// duplicate object keys, more than 256 levels, numbers that no double holds. Takes time in proportion to the text.
/// `max_bytes` bounds what is read (hostile input).
Json read_json(const std::filesystem::path& file, int64_t max_bytes = int64_t{256} << 20);

/// Parses text that came from `file` (for the message only), starting `base_offset` bytes into it.
Json parse_json(std::string_view text, const std::filesystem::path& file, int64_t base_offset = 0);

/// `value` as text for output: on one line, or with `indent` spaces a level. Strings may hold any bytes: U+FFFD replaces
/// ill-formed UTF-8. Text to be signed must not be altered silently: provenance/ writes that strictly.
std::string dump_text(const Json& value, int indent = -1);

}  // namespace overproof
