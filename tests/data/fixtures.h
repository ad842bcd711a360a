#pragma once
// Small tokenizers and folders for the tests of data/.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "data/bpe.h"
#include "data/corpus.h"
#include "core/utf8.h"

namespace overproof {

/// All 256 bytes as tokens 0..255, the given merges after them, then "<|endoftext|>" and "<tool>".
inline BpeDefinition small_bpe(const std::vector<std::pair<std::string, std::string>>& merges) {
  BpeDefinition definition;
  for (int b = 0; b < 256; ++b) {
    std::string token;
    append_utf8(token, byte_level_char(uint8_t(b)));
    definition.tokens.push_back(token);
  }
  for (const auto& [left, right] : merges) {
    const std::string whole = left + right;  // two merges may make the same token
    if (std::find(definition.tokens.begin(), definition.tokens.end(), whole) == definition.tokens.end())
      definition.tokens.push_back(whole);
  }
  definition.merges = merges;
  definition.pre_tokenizer = {{kGpt2Pattern}};
  const auto first_added = int32_t(definition.tokens.size());
  definition.tokens.insert(definition.tokens.end(), {"<|endoftext|>", "<tool>"});
  definition.added = {{.id = first_added, .text = "<|endoftext|>", .special = true}, {.id = first_added + 1, .text = "<tool>"}};
  definition.bos = definition.eos = first_added;
  return definition;
}

/// The text of a document of a corpus; "" where it has none.
inline std::string document_text(const fs::path& corpus, const Document& wanted) {
  std::string found;
  for_each_text(corpus, [&](const Document& document, std::string_view text) {
    if (document.name == wanted.name) found = text;
  });
  return found;
}

}  // namespace overproof
