#include "formats/generation_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "formats/folder_contents.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"

namespace overproof {
namespace {

constexpr const char* kGgufSampling = "general.sampling.";
constexpr const char *kPenalty = "repetition_penalty", *kGgufPenalty = "general.sampling.penalty_repeat";

/// A setting that generation_config.json and GGUF both have.
struct Setting {
  const char *name, *gguf;
  bool is_count = false;
};
constexpr Setting kSettings[] = {{"top_k", "general.sampling.top_k", true},
                                 {"top_p", "general.sampling.top_p"},
                                 {"min_p", "general.sampling.min_p"},
                                 {"temperature", "general.sampling.temp"},
                                 {kPenalty, kGgufPenalty}};

Json generation_config(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kGenerationConfigFile;
  return std::filesystem::is_regular_file(file) ? read_python_json(file) : Json::object();
}

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
  const Json generation = generation_config(model);
  const std::vector<int64_t> ids = ids_in(JsonObject(generation, model / kGenerationConfigFile, "", JsonNull::absent));
  return ids.empty() ? ids_in(JsonObject(config, model / "config.json", "", JsonNull::absent)) : ids;
}

double repetition_penalty(const std::filesystem::path& model) {
  const auto checked = [](double penalty, const std::filesystem::path& file, std::string_view name) {
    if (!(penalty > 0 && penalty < 1e6)) throw FormatError(file, -1, fmt::format("{} is {}, not a positive number", name, penalty));
    return penalty;
  };
  if (const auto gguf = gguf_of(model)) return checked(GgufFile(*gguf).number(kGgufPenalty, 1.0), *gguf, kGgufPenalty);
  const std::filesystem::path file = model / kGenerationConfigFile;
  const Json generation = generation_config(model);
  return checked(JsonObject(generation, file, "", JsonNull::absent).number(kPenalty, 1.0), file, kPenalty);
}

void add_gguf_sampling(const std::filesystem::path& model, GgufMetadata& out) {
  if (const auto gguf = gguf_of(model)) {
    const GgufFile file(*gguf);
    for (const auto& [key, value] : file.metadata())
      if (key.starts_with(kGgufSampling)) out.add_copy(key, value);
    return;
  }
  const Json generation = generation_config(model);
  const JsonObject settings(generation, model / kGenerationConfigFile, "", JsonNull::absent);
  for (const Setting& setting : kSettings) {
    if (!settings.has(setting.name)) continue;
    if (setting.is_count) out.add_i32(setting.gguf, settings.integer(setting.name, INT32_MIN, INT32_MAX));
    else out.add_f32(setting.gguf, settings.number(setting.name));
  }
}

Json gguf_sampling(const GgufFile& file) {
  Json settings = Json::object();
  for (const Setting& setting : kSettings) {
    if (!file.has(setting.gguf)) continue;
    if (setting.is_count) {
      settings[setting.name] = file.integer(setting.gguf);
    } else {
      const auto number = float(file.number(setting.gguf));
      if (!std::isfinite(number)) throw FormatError(file.path(), -1, fmt::format("{} is {}, not a finite number", setting.gguf, number));
      settings[setting.name] = parse_json(fmt::format("{}", number), file.path());  // 1.1, not 1.100000024
    }
    if (std::string_view(setting.name) != kPenalty) settings["do_sample"] = true;  // else transformers draws nothing
  }
  return settings;
}

Json gguf_token_ids(const GgufFile& file) {
  Json ids = Json::object();
  for (const auto& [name, key] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"),
                                  {"eos_token_id", "tokenizer.ggml.eos_token_id"},
                                  {"pad_token_id", "tokenizer.ggml.padding_token_id"}})
    if (file.has(key)) ids[name] = file.integer(key);
  for (const char* more : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {  // llama.cpp stops there, too
    if (!file.has(more) || !ids.contains("eos_token_id")) continue;
    Json& ends = ids["eos_token_id"];
    if (!ends.is_array()) ends = Json::array({ends});
    if (const Json id = file.integer(more); std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
    if (ends.size() == 1) ends = Json(ends.front());
  }
  return ids;
}

std::string with_repetition_penalty(const std::string& generation, double penalty, const std::filesystem::path& origin) {
  Json json = generation.empty() ? Json::object() : parse_python_json(generation, origin);
  if (!json.is_object()) throw FormatError(origin, 0, "is not a JSON object");
  json.erase("_from_model_config");  // transformers makes a file with this mark anew, from config.json
  json[kPenalty] = penalty;
  return json.dump(2) + "\n";
}

}  // namespace overproof
