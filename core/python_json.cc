#include "core/python_json.h"

#include <fmt/format.h>

#include "core/file.h"

namespace overproof {
namespace {

/// Where a bare word that only Python reads begins, and its length; npos where there is none.
struct BareWord {
  size_t at = std::string_view::npos, size = 0;
};

BareWord next_bare_word(std::string_view text, size_t from) {
  bool in_string = false;
  for (size_t i = from; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"})
      if (text.substr(i).starts_with(word)) return {i, word.size()};
  }
  return {};
}

}  // namespace

Json parse_python_json(std::string_view text, const fs::path& file) {
  BareWord word = next_bare_word(text, 0);
  if (word.at == std::string_view::npos) return parse_json(text, file);
  std::string strict;
  size_t done = 0;
  for (; word.at != std::string_view::npos; word = next_bare_word(text, done)) {
    strict += text.substr(done, word.at - done);
    strict += fmt::format(R"({{"__float__": "{}"}})", text.substr(word.at, word.size));
    done = word.at + word.size;
  }
  strict += text.substr(done);
  return parse_json(strict, file);
}

Json read_python_json(const fs::path& file, int64_t max_bytes) { return parse_python_json(read_file(file, max_bytes), file); }

}  // namespace overproof
