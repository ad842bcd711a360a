#pragma once
// The text of what is signed.

#include <string>
#include <string_view>

#include "core/json.h"

namespace overproof {

inline constexpr std::string_view kInTotoStatement = "https://in-toto.io/Statement/v1";

/// Canonical text. Nothing is altered to make it fit: throws UsageError where a string is not UTF-8, as JSON cannot hold it.
std::string json_dump(const Json& value);

}  // namespace overproof
