#pragma once
// Reading statements field by field: JSON has no schema, and what is read here may be forged.

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/file.h"
#include "core/json.h"

namespace overproof {

/// object[name]; throws FormatError when `object` is none or has no such member.
const Json& json_field(const Json& object, const char* name, const fs::path& origin);
const std::string& json_text(const Json& object, const char* name, const fs::path& origin);
const Json& json_list(const Json& object, const char* name, const fs::path& origin);
void expect_json_text(const Json& object, const char* name, std::string_view expected, const fs::path& origin);
/// A field nobody knows may be a known one with a flipped bit, and then what it said would be lost unseen.
void expect_json_fields(const Json& object, std::initializer_list<std::string_view> known, const fs::path& origin);
/// object[name] as 64 lower-case hex digits.
Digest json_digest(const Json& object, const char* name, const fs::path& origin);

/// Canonical text; throws UsageError where a string in it is not UTF-8, as JSON cannot hold it.
std::string json_dump(const Json& value);

}  // namespace overproof
