#pragma once
// Members of a config.json, with messages that name file and member. null counts as left out, as transformers takes it.

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/json.h"

namespace overproof {

class JsonFields {
 public:
  JsonFields(const Json& object, std::filesystem::path file) : object_(object), file_(std::move(file)) {
    if (!object.is_object()) fail("is not a JSON object");
  }
  [[noreturn]] void fail(const std::string& cause) const { throw FormatError(file_, -1, cause); }
  const std::filesystem::path& file() const { return file_; }
  const Json* find(const std::string& name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool has(const std::string& name) const { return find(name) != nullptr; }
  const Json& object() const { return object_; }

  /// A number of things: whole, at least 0, below 2^31, so that products of two fit.
  int64_t count(const std::string& name, std::optional<int64_t> fallback = {}) const {
    const Json* v = find(name);
    if (!v && fallback) return *fallback;
    if (!v || !v->is_number_integer() || *v < 0 || *v > INT32_MAX) fail(wanted(name, v, "a whole number"));
    return v->get<int64_t>();
  }
  double number(const std::string& name, std::optional<double> fallback = {}) const {
    const Json* v = find(name);
    if (!v && fallback) return *fallback;
    if (!v || !v->is_number() || !std::isfinite(v->get<double>())) fail(wanted(name, v, "a number"));
    return v->get<double>();
  }
  bool flag(const std::string& name, bool fallback) const {
    const Json* v = find(name);
    if (v && !v->is_boolean()) fail(wanted(name, v, "true or false"));
    return v ? v->get<bool>() : fallback;
  }
  std::string text(const std::string& name, const std::string& fallback) const {
    const Json* v = find(name);
    if (v && !v->is_string()) fail(wanted(name, v, "a string"));
    return v ? v->get<std::string>() : fallback;
  }

 private:
  static std::string wanted(const std::string& name, const Json* v, std::string_view what) {
    return v ? fmt::format("'{}' is not {}", name, what) : fmt::format("has no '{}'", name);
  }
  const Json& object_;
  std::filesystem::path file_;
};

}  // namespace overproof
