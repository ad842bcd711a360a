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
  std::vector<int64_t> open;  // tokens that each begin with the one before
  for (size_t i = 0; i < tokens_.size(); ++i) {
    while (!open.empty() && !tokens_[i].text.starts_with(tokens_[size_t(open.back())].text)) open.pop_back();
    prefix_.push_back(open.empty() ? -1 : open.back());
    open.push_back(int64_t(i));
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text) const {
  const auto [first, last] = by_first_[uint8_t(text[0])];
  // Every string between a prefix of `text` and `text` begins with that prefix. So the greatest string that is not above `text`
  // begins with every token that `text` begins with, and these are on its chain of prefixes, the longest first.
  const auto begin = tokens_.begin() + int64_t(first);
  const auto above = std::upper_bound(begin, tokens_.begin() + int64_t(last), text,
                                      [](std::string_view t, const AddedToken& token) { return t < token.text; });
  if (above == begin) return nullptr;
  const std::string_view nearest = (above - 1)->text;
  size_t common = 0;
  while (common < nearest.size() && common < text.size() && nearest[common] == text[common]) ++common;
  int64_t i = above - 1 - tokens_.begin();
  while (i >= 0 && tokens_[size_t(i)].text.size() > common) i = prefix_[size_t(i)];
  return i < 0 ? nullptr : &tokens_[size_t(i)];
}

void AddedTokenFinder::split(std::string_view text, bool parse_special, std::vector<TextPart>& parts,
                             const std::function<bool(size_t, size_t)>& allowed) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    const AddedToken* token = longest_at(text.substr(at));
    if (!token) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->text.size();
    if (allowed && !allowed(begin, end)) {
      ++at;
      continue;
    }
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
