#include "formats/token_ids.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string>

#include "core/error.h"
#include "core/json.h"
#include "core/python_json.h"

namespace overproof {
namespace {

namespace fs = std::filesystem;

/// Tokens by id, of those whose id is `rows` or more.
class TokensBeyond {
 public:
  explicit TokensBeyond(int64_t rows) : rows_(rows) {}

  void add(const Json& id, const std::string& text) {
    if (id.is_number_integer() && id.get<int64_t>() >= rows_) beyond_.emplace(id.get<int64_t>(), text);
  }
  void add_vocabulary(const Json& vocabulary) {
    if (vocabulary.is_object())
      for (const auto& [text, id] : vocabulary.items()) add(id, text);
    if (!vocabulary.is_array()) return;  // Unigram: [piece, score], its id is its place
    for (size_t id = size_t(rows_); id < vocabulary.size(); ++id)
      beyond_.emplace(int64_t(id), vocabulary[id].is_array() && !vocabulary[id].empty() && vocabulary[id][0].is_string()
                                       ? vocabulary[id][0].get<std::string>()
                                       : "");
  }
  void add_token(const Json& token, const Json& id) {
    add(id, token.is_object() && token.contains("content") && token["content"].is_string() ? token["content"].get<std::string>() : "");
  }
  void refuse(const fs::path& file) const {
    if (beyond_.empty()) return;
    std::vector<std::string> words;
    for (const auto& [id, text] : beyond_) {
      if (words.size() == 3) break;
      words.push_back(fmt::format("'{}' ({})", text.substr(0, 100), id));
    }
    throw FormatError(file, -1,
                      fmt::format("has tokens beyond the {} rows of the model's embedding: {}{}; enlarge the embedding (transformers: "
                                  "resize_token_embeddings), or remove them from the tokenizer",
                                  rows_, fmt::join(words, ", "),
                                  beyond_.size() > words.size() ? fmt::format(" and {} more", beyond_.size() - words.size()) : ""));
  }

 private:
  const int64_t rows_;
  std::map<int64_t, std::string> beyond_;
};

}  // namespace

void check_token_ids(const fs::path& folder, const Json& tokenizer, int64_t rows) {
  if (!fs::is_directory(folder)) return;
  TokensBeyond beyond(rows);
  if (!tokenizer.is_null()) {
    beyond.add_vocabulary(tokenizer.at("model").at("vocab"));
    if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end() && added->is_array())
      for (const Json& token : *added)
        if (token.contains("id")) beyond.add_token(token, token["id"]);
    return beyond.refuse(folder / "tokenizer.json");
  }
  if (const fs::path file = folder / "added_tokens.json"; fs::exists(file)) {
    beyond.add_vocabulary(read_json(file));
    beyond.refuse(file);
  }
  const fs::path file = folder / "tokenizer_config.json";
  if (!fs::exists(file)) return;
  const Json config = read_python_json(file);
  const auto decoder = config.is_object() ? config.find("added_tokens_decoder") : config.end();
  if (decoder == config.end() || !decoder->is_object()) return;
  for (const auto& [number, token] : decoder->items())
    if (!number.empty() && number.size() < 10 && std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; }))
      beyond.add_token(token, std::stoll(number));
  beyond.refuse(file);
}

}  // namespace overproof
