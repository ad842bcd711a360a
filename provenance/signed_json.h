#pragma once
// The text of what is signed.

#include <string>

#include "core/json.h"

namespace overproof {

/// Canonical text. Nothing is altered to make it fit: throws UsageError where a string is not UTF-8, as JSON cannot hold it.
std::string json_dump(const Json& value);

}  // namespace overproof
