#include "core/json_object.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace overproof {
namespace {

const Json kEmptyList = Json::array();

/// Texts of a hostile file may be long; a message shows their beginning.
std::string_view beginning(std::string_view text) { return text.substr(0, 200); }

}  // namespace

JsonObject::JsonObject(const Json& object, std::filesystem::path origin, std::string where, JsonNull null, int64_t offset)
    : JsonObject(object, std::make_shared<const Origin>(Origin{std::move(origin), offset, null}), std::move(where)) {}

JsonObject::JsonObject(const Json& object, std::shared_ptr<const Origin> origin, std::string where)
    : json_(&object), origin_(std::move(origin)), where_(std::move(where)) {
  if (!object.is_object())
    throw FormatError(origin_->file, origin_->offset,
                      where_.empty() ? std::string("is not a JSON object") : fmt::format("'{}' is not a JSON object", where_));
}

void JsonObject::fail(const std::string& cause) const {
  throw FormatError(origin_->file, origin_->offset, where_.empty() ? cause : fmt::format("'{}': {}", where_, cause));
}

void JsonObject::fail(std::string_view name, const std::string& cause) const {
  throw FormatError(origin_->file, origin_->offset, fmt::format("'{}' {}", path_of(beginning(name)), cause));
}

std::string JsonObject::path_of(std::string_view name) const {
  return where_.empty() ? std::string(name) : fmt::format("{}.{}", where_, name);
}

void JsonObject::fail_type(std::string_view name, const Json* value, std::string_view wanted) const {
  fail(name, value ? fmt::format("is not {}", wanted) : "is missing");
}

const Json* JsonObject::find(std::string_view name) const {
  const auto& members = json_->get_ref<const Json::object_t&>();
  const auto found = members.find(std::string(name));
  if (found == members.end() || (origin_->null == JsonNull::absent && found->second.is_null())) return nullptr;
  return &found->second;
}

const Json& JsonObject::at(std::string_view name) const {
  const Json* value = find(name);
  if (!value) fail(name, "is missing");
  return *value;
}

std::string JsonObject::text(std::string_view name, const std::optional<std::string>& fallback) const {
  const Json* value = find(name);
  if (!value && fallback) return *fallback;
  if (!value || !value->is_string()) fail_type(name, value, "a string");
  return value->get<std::string>();
}

int64_t JsonObject::integer(std::string_view name, int64_t least, int64_t most, std::optional<int64_t> fallback) const {
  const Json* value = find(name);
  if (!value && fallback) return *fallback;
  if (!value || !value->is_number_integer()) fail_type(name, value, "a whole number");
  const bool wraps = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t(INT64_MAX);
  const int64_t whole = value->get<int64_t>();
  if (wraps || whole < least || whole > most) fail(name, fmt::format("is {}; allowed: {} to {}", value->dump(), least, most));
  return whole;
}

int64_t JsonObject::count(std::string_view name, std::optional<int64_t> fallback) const {
  return integer(name, 0, int64_t{1} << 53, fallback);
}

double JsonObject::number(std::string_view name, std::optional<double> fallback) const {
  const Json* value = find(name);
  if (!value && fallback) return *fallback;
  if (!value || !value->is_number() || !std::isfinite(value->get<double>())) fail_type(name, value, "a finite number");
  return value->get<double>();
}

bool JsonObject::flag(std::string_view name, std::optional<bool> fallback) const {
  const Json* value = find(name);
  if (!value && fallback) return *fallback;
  if (!value || !value->is_boolean()) fail_type(name, value, "true or false");
  return value->get<bool>();
}

Digest JsonObject::digest(std::string_view name) const {
  const Json* value = find(name);
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  const std::string* hex = value && value->is_string() ? value->get_ptr<const std::string*>() : nullptr;
  if (!hex || hex->size() != 64 || !std::ranges::all_of(*hex, is_hex))
    fail_type(name, value, "a SHA-256 (64 lower-case hex digits)");
  return Digest::from_hex(*hex);
}

JsonObject JsonObject::object(std::string_view name) const { return JsonObject(at(name), origin_, path_of(name)); }

std::optional<JsonObject> JsonObject::find_object(std::string_view name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  return JsonObject(*value, origin_, path_of(name));
}

const Json& JsonObject::list(std::string_view name) const {
  const Json* value = find(name);
  if (!value || !value->is_array()) fail_type(name, value, "a list");
  return *value;
}

const Json& JsonObject::list_or_empty(std::string_view name) const { return has(name) ? list(name) : kEmptyList; }

std::vector<std::string> JsonObject::texts(std::string_view name) const {
  std::vector<std::string> out;
  for (const Json& text : list(name)) {
    if (!text.is_string()) fail(fmt::format("{}[{}]", name, out.size()), "is not a string");
    out.push_back(text.get<std::string>());
  }
  return out;
}

std::vector<JsonObject> JsonObject::objects_in(const Json& list, std::string_view name) const {
  std::vector<JsonObject> out;
  for (const Json& object : list) out.push_back(JsonObject(object, origin_, fmt::format("{}[{}]", path_of(name), out.size())));
  return out;
}

std::vector<JsonObject> JsonObject::objects(std::string_view name) const { return objects_in(list(name), name); }
std::vector<JsonObject> JsonObject::objects_or_empty(std::string_view name) const {
  return objects_in(list_or_empty(name), name);
}

void JsonObject::expect_only(std::initializer_list<std::string_view> known) const {
  for (const auto& [name, value] : json_->get_ref<const Json::object_t&>())
    if (std::ranges::find(known, name) == known.end()) fail(name, "is not a known member");
}

void JsonObject::expect_text(std::string_view name, std::string_view expected) const {
  if (const std::string found = text(name); found != expected)
    fail(name, fmt::format("is '{}'; expected '{}'", beginning(found), expected));
}

}  // namespace overproof
