#include "provenance/json_fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace overproof {

const Json& json_field(const Json& object, const char* name, const fs::path& origin) {
  if (!object.is_object() || !object.contains(name)) throw FormatError(origin, -1, fmt::format("'{}' is missing", name));
  return object[name];
}

const std::string& json_text(const Json& object, const char* name, const fs::path& origin) {
  const Json& value = json_field(object, name, origin);
  if (!value.is_string()) throw FormatError(origin, -1, fmt::format("'{}' is not a text", name));
  return value.get_ref<const std::string&>();
}

const Json& json_list(const Json& object, const char* name, const fs::path& origin) {
  const Json& value = json_field(object, name, origin);
  if (!value.is_array()) throw FormatError(origin, -1, fmt::format("'{}' is not a list", name));
  return value;
}

void expect_json_text(const Json& object, const char* name, std::string_view expected, const fs::path& origin) {
  if (const std::string& value = json_text(object, name, origin); value != expected)
    throw FormatError(origin, -1, fmt::format("'{}' is '{}', expected '{}'", name, value.substr(0, 200), expected));
}

void expect_json_fields(const Json& object, std::initializer_list<std::string_view> known, const fs::path& origin) {
  if (!object.is_object()) throw FormatError(origin, -1, "expected an object");
  for (const auto& [name, value] : object.items())
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw FormatError(origin, -1, fmt::format("unknown field '{}'", name.substr(0, 200)));
}

Digest json_digest(const Json& object, const char* name, const fs::path& origin) {
  const std::string& hex = json_text(object, name, origin);
  if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw FormatError(origin, -1, fmt::format("'{}' is no SHA-256 digest", hex.substr(0, 80)));
  return Digest::from_hex(hex);
}

std::string json_dump(const Json& value) {
  try {
    return value.dump();
  } catch (const Json::type_error&) {
    throw UsageError("a file name or a text is not UTF-8, so it cannot be recorded: rename the file");
  }
}

}  // namespace overproof
