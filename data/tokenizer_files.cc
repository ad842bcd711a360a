#include "data/tokenizer_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "core/printable.h"
#include "core/progress_note.h"
#include "core/python_json.h"
#include "data/bpe.h"
#include "data/sentencepiece_tokenizer.h"
#include "formats/folder_contents.h"
#include "formats/generation_config.h"
#include "formats/gguf.h"

namespace overproof {
namespace {

bool belongs_to_tokenizer(const fs::path& file) {
  static const std::vector<std::string> names = {
      "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
      "merges.txt",     "vocab.txt",             "tekken.json",             "chat_template.jinja", "chat_template.json"};
  return file.extension() == ".model" || std::ranges::count(names, file.filename().string()) > 0;
}

/// A licence text by its name, or a folder of them (LICENSES/ of the REUSE specification).
bool is_legal(std::string name) {
  std::ranges::transform(name, name.begin(), [](char c) { return c >= 'a' && c <= 'z' ? char(c - 'a' + 'A') : c; });
  return std::ranges::any_of(std::initializer_list<std::string_view>{"LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"},
                             [&](std::string_view begin) { return name.starts_with(begin); });
}

/// What goes with the weights wherever they go: licence texts, the code and the settings that config.json and processors name. Not what
/// describes the weights' own files, or another model's quality.
bool belongs_to_model(const fs::path& file) {
  const std::string name = file.filename().string();
  return is_legal(name) || file.extension() == ".py" || name.ends_with("processor_config.json");
}

/// Weights, their index and configuration, which a stage writes anew, and signatures, which do not hold for a copy.
bool is_weights_or_ours(const fs::path& file) {
  const std::string name = file.filename().string();
  return file.extension() == ".safetensors" || file.extension() == ".gguf" || name.ends_with(".safetensors.index.json") ||
         name == "config.json" || name == "generation_config.json" || name == "claims.jsonl" || name == "model.sig";
}

/// Llama 3 has a file of tiktoken under the name of a SentencePiece model: lines of a token in base64 and its rank.
bool begins_with_ranks(const fs::path& file) {
  std::string line;
  std::getline(std::ifstream(file), line);
  const size_t space = line.find(' ');
  const auto all = [](std::string_view text, auto&& one) { return !text.empty() && std::ranges::all_of(text, one); };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return space != line.npos && line.size() < 1024 && all(std::string_view(line).substr(space + 1), digit) &&
         all(std::string_view(line).substr(0, space),
             [&](char c) { return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '/' || c == '='; });
}

std::vector<fs::path> sorted_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

/// The settings of sampling and all ids that end a text: a student's config.json has the first of these only. Of a parent without
/// generation_config.json, what transformers derives from its config.json; of a .gguf, its keys.
void copy_generation_config(const fs::path& from, OutputFolder& folder) {
  Json config, generation;
  if (const std::optional<fs::path> gguf = gguf_of(from)) {
    const GgufFile file(*gguf);
    config = gguf_token_ids(file);
    generation = gguf_sampling(file);
  } else if (fs::is_regular_file(from / kGenerationConfigFile)) {
    folder.write_file(kGenerationConfigFile, read_file(from / kGenerationConfigFile));
    return;
  } else if (fs::exists(from / "config.json")) {
    config = read_python_json(from / "config.json");
  }
  if (!config.is_object()) return;
  if (generation.empty() && !config.value("eos_token_id", Json()).is_array()) return;
  if (generation.empty()) generation = {{"_from_model_config", true}};
  for (const char* id : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (config.contains(id) && !config[id].is_null()) generation[id] = config[id];
  folder.write_file(kGenerationConfigFile, generation.dump(2) + "\n");
}

/// tokenizer.json, or tokenizer.model where its tokenizer is of the kind "llama", and tokenizer_config.json.
void write_gguf_tokenizer(const fs::path& gguf, OutputFolder& folder) {
  if (!has_gguf_tokenizer(gguf)) {
    progress_note(printable(fmt::format("note: {} has no tokenizer, and so has what is made of it", gguf.string())));
  } else if (const auto pieces = read_gguf_sentencepiece(gguf)) {
    folder.write_file("tokenizer.model", pieces->model);
    folder.write_file("tokenizer_config.json", pieces->config);
  } else {
    const BpeDefinition definition = read_gguf_tokenizer(gguf);
    folder.write_file("tokenizer.json", write_tokenizer_json(definition));
    folder.write_file("tokenizer_config.json", write_tokenizer_config_json(definition));
  }
}

}  // namespace

void refuse_damaged_tokenizer(const fs::path& checkpoint) {
  if (!fs::is_directory(checkpoint)) return;
  for (const char* name : {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}) {
    const fs::path file = checkpoint / name;
    // The model alone: added tokens next to it that are not supported here are no damage.
    if (fs::is_regular_file(file) && !begins_with_ranks(file)) make_sentencepiece(read_file(file, int64_t{256} << 20), file);
  }
}

void copy_tokenizer_files(const fs::path& from_checkpoint, OutputFolder& folder) {
  refuse_damaged_tokenizer(from_checkpoint);
  if (const std::optional<fs::path> gguf = gguf_of(from_checkpoint)) {
    write_gguf_tokenizer(*gguf, folder);
    copy_generation_config(from_checkpoint, folder);
    return;
  }
  for (const fs::path& file : sorted_files(from_checkpoint))
    if (belongs_to_tokenizer(file)) folder.write_file(file.filename().string(), read_file(file));
  const fs::path templates = from_checkpoint / "additional_chat_templates";
  if (fs::is_directory(templates))
    for (const fs::path& file : sorted_files(templates))
      folder.write_file(templates.filename().string() + "/" + file.filename().string(), read_file(file));
  copy_generation_config(from_checkpoint, folder);
}

std::string copy_companions(const fs::path& from_checkpoint, OutputFolder& folder) {
  copy_tokenizer_files(from_checkpoint, folder);
  if (!fs::is_directory(from_checkpoint) || gguf_of(from_checkpoint)) return "";
  std::vector<std::string> left_out;
  for (auto entry = fs::recursive_directory_iterator(from_checkpoint); entry != fs::recursive_directory_iterator(); ++entry) {
    const fs::path& file = entry->path();
    const fs::path relative = file.lexically_relative(from_checkpoint);
    const std::string name = relative.generic_string();
    const bool top = file.parent_path() == from_checkpoint;
    if (file.filename().string().starts_with('.') || name == "additional_chat_templates") {
      entry.disable_recursion_pending();
      continue;
    }
    if (!entry->is_regular_file() || (top && belongs_to_tokenizer(file))) continue;
    if (top ? belongs_to_model(file) : is_legal(relative.begin()->string())) folder.write_file(name, read_file(file));
    else if (!is_weights_or_ours(file)) left_out.push_back(printable(name));
  }
  if (left_out.empty() || fs::exists(from_checkpoint / "claims.jsonl")) return "";
  std::ranges::sort(left_out);
  return fmt::format("not copied from the model's folder: {}", fmt::join(left_out, ", "));
}

void copy_companions_noted(const fs::path& from_checkpoint, OutputFolder& folder) {
  if (const std::string note = copy_companions(from_checkpoint, folder); !note.empty()) progress_note("note: " + note);
}

}  // namespace overproof
