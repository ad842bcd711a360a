#include "formats/end_ids.h"

#include "core/json_object.h"
#include "core/python_json.h"

namespace overproof {
namespace {

/// A number, a list of numbers, or nothing.
std::vector<int64_t> ids_in(const JsonObject& config) {
  const Json* value = config.find("eos_token_id");
  if (!value) return {};
  std::vector<int64_t> ids;
  for (const Json& id : value->is_array() ? *value : Json::array({*value})) {
    if (!id.is_number_integer() || id > INT32_MAX) config.fail("eos_token_id", "is not a token id");
    if (id >= 0) ids.push_back(id.get<int64_t>());
  }
  return ids;
}

}  // namespace

std::vector<int64_t> end_ids(const std::filesystem::path& model, const Json& config) {
  const std::filesystem::path file = model / "generation_config.json";
  std::vector<int64_t> ids;
  if (std::filesystem::is_regular_file(file)) {
    const Json generation = read_python_json(file);
    ids = ids_in(JsonObject(generation, file, "", JsonNull::absent));
  }
  return ids.empty() ? ids_in(JsonObject(config, model / "config.json", "", JsonNull::absent)) : ids;
}

}  // namespace overproof
