#include "data/tokenizer_files.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "core/python_json.h"
#include "data/bpe.h"
#include "formats/folder_contents.h"

namespace overproof {
namespace {

bool belongs_to_tokenizer(const fs::path& file) {
  static const std::vector<std::string> names = {
      "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
      "merges.txt",     "chat_template.jinja",   "chat_template.json"};
  return file.extension() == ".model" || std::ranges::count(names, file.filename().string()) > 0;
}

std::vector<fs::path> sorted_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

/// The settings of sampling and all ids that end a text: a student's config.json has the first of these only. Of a parent without
/// generation_config.json, what transformers derives from its config.json.
void copy_generation_config(const fs::path& from, OutputFolder& folder) {
  constexpr const char* kName = "generation_config.json";
  if (copy_file_if_present(from, kName, folder) || !fs::exists(from / "config.json")) return;
  const Json config = read_python_json(from / "config.json");
  if (!config.is_object() || !config.value("eos_token_id", Json()).is_array()) return;
  Json generation = {{"_from_model_config", true}};
  for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (config.contains(id) && !config[id].is_null()) generation[id] = config[id];
  folder.write_file(kName, generation.dump(2) + "\n");
}

}  // namespace

std::optional<fs::path> gguf_of(const fs::path& checkpoint) {
  if (!fs::is_directory(checkpoint)) return checkpoint;
  if (fs::exists(checkpoint / "config.json")) return std::nullopt;
  return gguf_in_folder(checkpoint);
}

void copy_tokenizer_files(const fs::path& from_checkpoint, OutputFolder& folder) {
  if (const std::optional<fs::path> gguf = gguf_of(from_checkpoint)) {
    const BpeDefinition definition = read_gguf_tokenizer(*gguf);
    folder.write_file("tokenizer.json", write_tokenizer_json(definition));
    folder.write_file("tokenizer_config.json", write_tokenizer_config_json(definition));
    return;
  }
  for (const fs::path& file : sorted_files(from_checkpoint))
    if (belongs_to_tokenizer(file)) folder.write_file(file.filename().string(), read_file(file));
  copy_generation_config(from_checkpoint, folder);
}

bool copy_file_if_present(const fs::path& from_checkpoint, const std::string& name, OutputFolder& folder) {
  if (!fs::is_directory(from_checkpoint) || !fs::is_regular_file(from_checkpoint / name)) return false;
  folder.write_file(name, read_file(from_checkpoint / name));
  return true;
}

}  // namespace overproof
