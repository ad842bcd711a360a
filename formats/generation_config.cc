#include "formats/generation_config.h"

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "formats/folder_contents.h"
#include "formats/gguf.h"

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
  const std::filesystem::path file = model / kGenerationConfigFile;
  std::vector<int64_t> ids;
  if (std::filesystem::is_regular_file(file)) {
    const Json generation = read_python_json(file);
    ids = ids_in(JsonObject(generation, file, "", JsonNull::absent));
  }
  return ids.empty() ? ids_in(JsonObject(config, model / "config.json", "", JsonNull::absent)) : ids;
}

double repetition_penalty(const std::filesystem::path& model) {
  const auto checked = [](double penalty, const std::filesystem::path& file, std::string_view name) {
    if (!(penalty > 0 && penalty < 1e6)) throw FormatError(file, -1, fmt::format("{} is {}, not a positive number", name, penalty));
    return penalty;
  };
  const std::filesystem::path file = model / kGenerationConfigFile;
  if (std::filesystem::is_regular_file(file)) {
    const Json generation = read_python_json(file);
    return checked(JsonObject(generation, file, "", JsonNull::absent).number("repetition_penalty", 1.0), file, "repetition_penalty");
  }
  const bool folder = std::filesystem::is_directory(model);
  if (folder && std::filesystem::exists(model / "config.json")) return 1;
  const std::optional<std::filesystem::path> gguf = folder ? gguf_in_folder(model) : model;
  return gguf ? checked(GgufFile(*gguf).number(kGgufRepetitionPenalty, 1.0), *gguf, kGgufRepetitionPenalty) : 1;
}

std::string with_repetition_penalty(const std::string& generation, double penalty, const std::filesystem::path& origin) {
  Json json = generation.empty() ? Json::object() : parse_python_json(generation, origin);
  if (!json.is_object()) throw FormatError(origin, 0, "is not a JSON object");
  json.erase("_from_model_config");  // transformers makes a file with this mark anew, from config.json
  json["repetition_penalty"] = penalty;
  return json.dump(2) + "\n";
}

}  // namespace overproof
