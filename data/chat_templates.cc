#include "data/chat_templates.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr int64_t kMostFileBytes = int64_t{16} << 20;

using Named = std::vector<std::pair<std::string, std::string>>;

void sort_default_first(Named& all) {
  std::ranges::sort(all, {}, [](const auto& t) { return std::pair(t.first != kDefaultTemplate, t.first); });
}

/// A text, or a list of {"name", "template"}; anything else is none.
Named inline_templates(const Json& value) {
  Named all;
  if (value.is_string()) all.emplace_back(kDefaultTemplate, value.get<std::string>());
  if (!value.is_array()) return all;
  const auto text = [](const Json& entry, const char* key) {
    return entry.is_object() && entry.contains(key) && entry[key].is_string() ? entry[key].get<std::string>() : std::string();
  };
  for (const Json& entry : value)
    if (std::string name = text(entry, "name"); !name.empty()) all.emplace_back(std::move(name), text(entry, "template"));
  sort_default_first(all);
  return all;
}

Named template_files(const fs::path& folder) {
  Named all;
  if (const fs::path file = folder / "chat_template.jinja"; fs::is_regular_file(file))
    all.emplace_back(kDefaultTemplate, read_file(file, kMostFileBytes));
  if (const fs::path more = folder / "additional_chat_templates"; fs::is_directory(more))
    for (const auto& entry : fs::directory_iterator(more))
      if (entry.is_regular_file() && entry.path().extension() == ".jinja")
        all.emplace_back(entry.path().stem().string(), read_file(entry.path(), kMostFileBytes));
  sort_default_first(all);
  return all;
}

}  // namespace

std::string ChatTemplates::text() const {
  return named.empty() || named.front().first != kDefaultTemplate ? std::string() : named.front().second;
}

ChatTemplates read_chat_templates(const fs::path& folder, const Json& config) {
  const Named given = inline_templates(config.is_object() ? config.value("chat_template", Json()) : Json());
  ChatTemplates found{template_files(folder), ""};
  if (!found.named.empty()) {
    if (!given.empty() && given != found.named)
      found.note =
          "tokenizer_config.json and the .jinja files have different chat templates: the files count, as in transformers (llama.cpp's "
          "converter takes the others)";
    return found;
  }
  found.named = given;
  if (const fs::path file = folder / "chat_template.json"; found.named.empty() && fs::is_regular_file(file)) {
    const Json json = read_json(file, kMostFileBytes);
    found.named = inline_templates(json.is_object() ? json.value("chat_template", Json()) : Json());
  }
  return found;
}

}  // namespace overproof
