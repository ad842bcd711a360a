#include "formats/companion_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "formats/generation_config.h"

namespace overproof {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNumbers[] = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"};

/// An id, a list of ids, or nothing.
void check_ids(const JsonObject& file, const char* name) {
  const Json* value = file.find(name);
  if (!value) return;
  for (const Json& id : value->is_array() ? *value : Json::array({*value}))
    if (!id.is_number_integer() || id > INT32_MAX) file.fail(name, "is not a token id");
}

/// A text, or an object with one, as transformers writes tokens with properties.
void check_token(const JsonObject& file, const char* name) {
  const Json* value = file.find(name);
  if (value && value->is_object()) file.object(name).text("content");
  else if (value) file.text(name);
}

void check_tokenizer(const JsonObject& file) {
  const std::optional<JsonObject> model = file.find_object("model");
  const Json* vocabulary = model ? model->find("vocab") : nullptr;
  if (!vocabulary || !(vocabulary->is_object() || vocabulary->is_array()))
    file.fail("has no 'model' with a 'vocab', so no program can open it; is it damaged?");
  file.objects_or_empty("added_tokens");
}

void check_file(const std::string& name, const JsonObject& file) {
  if (name == "tokenizer.json") check_tokenizer(file);
  if (name == "tokenizer_config.json" || name == "special_tokens_map.json")
    for (const char* token : kNamedTokens) check_token(file, token);
  if (name == "added_tokens.json")
    for (const auto& [text, id] : file.json().items())
      if (!id.is_number_integer()) file.fail(text, "is not a token id");
  if (name == kGenerationConfigFile) {
    for (const char* ids : {"bos_token_id", "eos_token_id", "pad_token_id"}) check_ids(file, ids);
    for (const char* number : kNumbers)  // an object is a number that only Python reads (core/python_json.h)
      if (const Json* value = file.find(number); value && !value->is_number() && !value->is_object()) file.fail(number, "is not a number");
  }
}

bool is_companion(const std::string& name) {
  static const std::vector<std::string> names = {"tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
                                                 "tekken.json",       "chat_template.json",    kGenerationConfigFile};
  return std::ranges::count(names, name) > 0 || name.ends_with("processor_config.json");
}

}  // namespace

Json check_companion_files(const fs::path& model) {
  Json tokenizer;
  if (!fs::is_directory(model)) return tokenizer;
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(model))
    if (entry.is_regular_file() && is_companion(entry.path().filename().string())) files.push_back(entry.path());
  std::ranges::sort(files);  // of several faults the same is named every time
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    Json json = name == "tokenizer.json" ? read_json(file) : read_python_json(file);
    check_file(name, JsonObject(json, file, "", JsonNull::absent));
    if (name == "tokenizer.json") tokenizer = std::move(json);
  }
  return tokenizer;
}

}  // namespace overproof
