#include "data/added_tokens.h"

#include <algorithm>

#include "core/utf8.h"
#include "data/unicode.h"

namespace overproof {

namespace {

/// Start of the code point that ends at `end`.
size_t previous_char(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (uint8_t(text[begin]) & 0xc0) == 0x80) --begin;
  return begin;
}

bool word_before(std::string_view text, size_t at) {
  return at > 0 && is_word(decode_utf8(text.substr(previous_char(text, at))).code);
}
bool word_after(std::string_view text, size_t at) { return at < text.size() && is_word(decode_utf8(text.substr(at)).code); }

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized) {
  for (const AddedToken& token : tokens) {
    if (token.normalized == normalized && !token.text.empty()) tokens_.push_back(token);
  }
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) { return a.text < b.text; });
  by_first_.assign(256, {0, 0});
  for (size_t i = 0; i < tokens_.size(); ++i) {
    auto& [begin, end] = by_first_[uint8_t(tokens_[i].text[0])];
    if (end == 0) begin = i;
    end = i + 1;
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text) const {
  const auto [first, last] = by_first_[uint8_t(text[0])];
  // Prefixes of `text` among sorted strings: walk down from the greatest string that is not above `text`. Strings that
  // share less and less with it follow, so the first prefix met is the longest.
  auto begin = tokens_.begin() + int64_t(first);
  auto it = std::upper_bound(begin, tokens_.begin() + int64_t(last), text,
                             [](std::string_view t, const AddedToken& token) { return t < token.text; });
  while (it != begin) {
    --it;
    if (text.starts_with(it->text)) return &*it;
    // Nothing that starts with more than the common part can match: jump to the place of the common part itself.
    size_t common = 0;
    while (common < it->text.size() && common < text.size() && it->text[common] == text[common]) ++common;
    it = std::upper_bound(begin, it, text.substr(0, common),
                          [](std::string_view t, const AddedToken& token) { return t < token.text; });
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, bool parse_special, std::vector<TextPart>& parts) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    const AddedToken* token = longest_at(text.substr(at));
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->text.size();
    at = end;  // also an excluded match hides what it overlaps
    if (token->special && !parse_special) continue;
    if (token->single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (token->lstrip) {
      while (begin > done && is_white_space(decode_utf8(text.substr(previous_char(text, begin))).code)) {
        begin = previous_char(text, begin);
      }
    }
    if (token->rstrip) {
      while (end < text.size()) {
        const Utf8Char c = decode_utf8(text.substr(end));
        if (!is_white_space(c.code)) break;
        end += size_t(c.bytes);
      }
    }
    begin = std::max(begin, done);
    if (begin > done) parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end - begin), token->id});
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
}

}  // namespace overproof
