#include "data/suffix_array.h"

#include <divsufsort.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/utf8.h"
#include "data/unicode.h"

namespace overproof {
namespace {

struct CodeRange {
  char32_t first, last;
};
/// Scripts that are written without spaces between words.
constexpr CodeRange kWithoutSpaces[] = {{0x0e00, 0x109f},     // Thai, Lao, Tibetan, Myanmar
                                        {0x1780, 0x17ff},     // Khmer
                                        {0x2e80, 0xa4cf},     // Han, kana, bopomofo, Yi
                                        {0xf900, 0xfaff},     // Han compatibility forms
                                        {0xff66, 0xff9d},     // half-width kana
                                        {0x1b000, 0x1b16f},   // kana supplement
                                        {0x20000, 0x3ffff}};  // Han extensions

bool stands_alone(char32_t code) {
  return code >= 0x0e00 &&
         std::ranges::any_of(kWithoutSpaces, [&](const CodeRange& r) { return code >= r.first && code <= r.last; });
}

bool in_word(char32_t code) {
  if (code < 0x80)
    return (code >= '0' && code <= '9') || (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z') || code == '_';
  return is_word(code);
}

/// Calls begin(offset) and end(offset) as words begin and end.
template <class Begin, class End>
void walk_words(std::string_view text, const Begin& begin, const End& end) {
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    Utf8Char c{byte, 1, true};
    if (byte >= 0x80) c = decode_utf8(text.substr(at, 4));
    const bool word = c.valid && in_word(c.code), alone = word && stands_alone(c.code);
    if (inside && (!word || alone)) end(at), inside = false;
    if (word && !inside) begin(at), inside = true;
    at += size_t(c.bytes);
    if (alone) end(at), inside = false;
  }
  if (inside) end(text.size());
}

/// How many bytes both have in common at the beginning, the first `known` taken as such.
size_t common(std::string_view a, std::string_view b, size_t known) {
  const size_t n = std::min(a.size(), b.size());
  size_t i = std::min(known, n);  // what is known of a file that lies may be more than it has
  for (; i + 8 <= n; i += 8) {
    uint64_t x, y;
    std::memcpy(&x, a.data() + i, 8);
    std::memcpy(&y, b.data() + i, 8);
    if (x != y) break;
  }
  while (i < n && a[i] == b[i]) ++i;
  return i;
}

}  // namespace

Words words_of(std::string_view utf8) {
  Words words;
  walk_words(
      utf8, [&](size_t at) { words.begins.push_back(int64_t(at)); }, [&](size_t at) { words.ends.push_back(int64_t(at)); });
  return words;
}

std::vector<uint32_t> sort_word_suffixes(std::string_view text) {
  OVERPROOF_CHECK(text.size() <= size_t(std::numeric_limits<int32_t>::max()));
  std::vector<bool> begins(text.size());
  size_t count = 0;
  walk_words(
      text, [&](size_t at) { begins[at] = true, ++count; }, [](size_t) {});
  std::vector<uint32_t> thinned;
  if (count == 0) return thinned;
  std::vector<saidx_t> all(text.size());
  if (divsufsort(reinterpret_cast<const sauchar_t*>(text.data()), all.data(), saidx_t(text.size())) != 0)
    throw UsageError(
        fmt::format("sorting {} bytes of text needs more memory than there is; make the shards smaller", text.size()));
  thinned.reserve(count);
  for (const saidx_t at : all)
    if (begins[size_t(at)]) thinned.push_back(uint32_t(at));
  return thinned;
}

int64_t SuffixArray::position(int64_t place) const {
  const uint32_t at = suffixes_[size_t(place)];
  if (at >= text_.size())
    throw FormatError(file_, -1, fmt::format("suffix {} begins at byte {} of a text of {}", place, at, text_.size()));
  return at;
}

int64_t SuffixArray::bound(std::string_view pattern, bool after) const {
  int64_t low = 0, high = size();
  // What the suffixes at both ends have in common with the pattern, all between them have too.
  size_t common_low = 0, common_high = 0;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    const std::string_view suffix = text_.substr(size_t(position(middle)));
    const size_t same = common(suffix, pattern, std::min(common_low, common_high));
    const bool before = same == pattern.size() ? after
                        : same == suffix.size()
                            ? true
                            : static_cast<unsigned char>(suffix[same]) < static_cast<unsigned char>(pattern[same]);
    if (before) low = middle + 1, common_low = same;
    else high = middle, common_high = same;
  }
  return low;
}

int64_t SuffixArray::longest_match(std::string_view pattern) const {
  const int64_t place = bound(pattern, false);
  size_t longest = 0;
  for (const int64_t neighbour : {place - 1, place})
    if (neighbour >= 0 && neighbour < size())
      longest = std::max(longest, common(text_.substr(size_t(position(neighbour))), pattern, 0));
  return int64_t(longest);
}

SuffixArray::Range SuffixArray::find(std::string_view pattern) const { return {bound(pattern, false), bound(pattern, true)}; }

}  // namespace overproof
