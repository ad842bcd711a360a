#pragma once
// JSON that Python wrote for transformers: config.json and the files next to it.

#include "core/json.h"

namespace overproof {

/// As read_json() and parse_json() (core/json.h), and Python's bare words NaN, Infinity and -Infinity, which JSON does not have, are read
/// as what transformers 5 writes for them: {"__float__": "Infinity"}.
Json read_python_json(const std::filesystem::path& file, int64_t max_bytes = int64_t{256} << 20);
Json parse_python_json(std::string_view text, const std::filesystem::path& file);

}  // namespace overproof
