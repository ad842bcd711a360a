#pragma once
// Values of JSON that may have any shape: what is missing or of another type is "", 0, false, empty or nullopt.

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"

namespace overproof::json_values {

inline const Json& member(const Json& object, const char* name) {
  static const Json nothing;
  return object.is_object() && object.contains(name) ? object[name] : nothing;
}

/// The elements of an array; none of anything else.
inline const std::vector<Json>& elements(const Json& object, const char* name) {
  static const std::vector<Json> none;
  const Json& value = member(object, name);
  return value.is_array() ? value.get_ref<const Json::array_t&>() : none;
}

inline std::string text(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

inline std::optional<double> number(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
  return value.get<double>();
}

/// Not negative, and so small that the sum over a report's rows cannot overflow.
inline int64_t count(const Json& object, const char* name) {
  const auto value = number(object, name);
  return value && *value >= 0 && *value < 1e15 ? int64_t(*value) : 0;
}

inline bool truth(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_boolean() && value.get<bool>();
}

inline std::vector<std::string> texts(const Json& object, const char* name) {
  std::vector<std::string> all;
  for (const Json& item : elements(object, name))
    if (item.is_string()) all.push_back(item.get<std::string>());
  return all;
}

}  // namespace overproof::json_values
