#pragma once
// Reads the members of one JSON object that may be hostile: every fault is a FormatError with the file and the member's path.
//
//   const JsonObject config(json, file);
//   const int64_t layers = config.integer("num_hidden_layers", 1, 1000);
//   const std::string type = config.object("rope_parameters").text("rope_type", "default");   // a fault names 'rope_parameters.rope_type'

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/json.h"

namespace overproof {

/// What a member with the value null is. transformers writes null for a default (`absent`); in our own files it is a value like
/// any other, and of the wrong type wherever text, a number or a flag is read.
enum class JsonNull { value, absent };

/// Refers to the JSON value, which must outlive it. Without a fallback, a member that is missing is a fault.
class JsonObject {
 public:
  /// `where`: how the object is reached in the file, e.g. "documents[3]"; empty for a whole file.
  /// `offset`: byte offset for the faults, where the object is one record of a file; -1: none.
  JsonObject(const Json& object, std::filesystem::path origin, std::string where = "", JsonNull null = JsonNull::value,
             int64_t offset = -1);
  JsonObject(Json&&, std::filesystem::path, std::string = "", JsonNull = JsonNull::value, int64_t = -1) = delete;

  const Json& json() const { return *json_; }
  const std::filesystem::path& origin() const { return origin_->file; }
  [[noreturn]] void fail(const std::string& cause) const;
  /// A fault of one member: "'where.name' " + `cause`.
  [[noreturn]] void fail(std::string_view name, const std::string& cause) const;

  const Json* find(std::string_view name) const;  ///< null when there is no such member
  bool has(std::string_view name) const { return find(name) != nullptr; }
  const Json& at(std::string_view name) const;

  std::string text(std::string_view name, const std::optional<std::string>& fallback = {}) const;
  int64_t integer(std::string_view name, int64_t least, int64_t most, std::optional<int64_t> fallback = {}) const;
  /// 0 .. 2^53: a number of things, as every JSON reader holds it exactly.
  int64_t count(std::string_view name, std::optional<int64_t> fallback = {}) const;
  double number(std::string_view name, std::optional<double> fallback = {}) const;  ///< finite
  bool flag(std::string_view name, std::optional<bool> fallback = {}) const;
  Digest digest(std::string_view name) const;  ///< 64 lower-case hex digits
  JsonObject object(std::string_view name) const;
  std::optional<JsonObject> find_object(std::string_view name) const;
  const Json& list(std::string_view name) const;
  const Json& list_or_empty(std::string_view name) const;
  std::vector<std::string> texts(std::string_view name) const;    ///< a list of strings
  std::vector<JsonObject> objects(std::string_view name) const;   ///< a list of objects
  std::vector<JsonObject> objects_or_empty(std::string_view name) const;

  /// Every member must be among `known`: an unknown one may be a known one with a flipped bit, whose value would be lost unseen.
  void expect_only(std::initializer_list<std::string_view> known) const;
  void expect_text(std::string_view name, std::string_view expected) const;

 private:
  struct Origin {
    std::filesystem::path file;
    int64_t offset;
    JsonNull null;
  };
  JsonObject(const Json& object, std::shared_ptr<const Origin> origin, std::string where);
  std::string path_of(std::string_view name) const;
  [[noreturn]] void fail_type(std::string_view name, const Json* value, std::string_view wanted) const;
  std::vector<JsonObject> objects_in(const Json& list, std::string_view name) const;

  const Json* json_;
  std::shared_ptr<const Origin> origin_;
  std::string where_;
};

}  // namespace overproof
