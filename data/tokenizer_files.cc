#include "data/tokenizer_files.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "data/bpe.h"

namespace overproof {
namespace {

bool belongs_to_tokenizer(const fs::path& file) {
  static const std::vector<std::string> names = {
      "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
      "merges.txt",     "chat_template.jinja"};
  return file.extension() == ".model" || std::ranges::count(names, file.filename().string()) > 0;
}

std::vector<fs::path> sorted_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

}  // namespace

std::optional<fs::path> gguf_of(const fs::path& checkpoint) {
  if (!fs::is_directory(checkpoint)) return checkpoint;
  if (fs::exists(checkpoint / "config.json")) return std::nullopt;
  for (const fs::path& file : sorted_files(checkpoint))
    if (file.extension() == ".gguf") return file;
  return std::nullopt;
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
}

bool copy_file_if_present(const fs::path& from_checkpoint, const std::string& name, OutputFolder& folder) {
  if (!fs::is_directory(from_checkpoint) || !fs::is_regular_file(from_checkpoint / name)) return false;
  folder.write_file(name, read_file(from_checkpoint / name));
  return true;
}

}  // namespace overproof
