#include "data/unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "core/error.h"
#include "data/unicode_tables.h"
#include "data/utf8.h"

namespace overproof {

namespace {

// Hangul syllables are computed, not tabled (Unicode, section 3.12).
constexpr char32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr char32_t kVowelCount = 21, kTailCount = 28, kSyllableCount = 11172, kLeadCount = 19;

int combining_class(char32_t code) {
  const auto* it = std::upper_bound(std::begin(kCombiningRanges), std::end(kCombiningRanges), code,
                                    [](char32_t c, const CombiningRange& range) { return c < range.first; });
  return it != std::begin(kCombiningRanges) && code <= (it - 1)->last ? (it - 1)->combining_class : 0;
}

void decompose(char32_t code, std::vector<char32_t>& out) {
  if (code >= kSyllables && code < kSyllables + kSyllableCount) {
    const char32_t index = code - kSyllables;
    out.push_back(kLeads + index / (kVowelCount * kTailCount));
    out.push_back(kVowels + index % (kVowelCount * kTailCount) / kTailCount);
    if (index % kTailCount) out.push_back(kTails + index % kTailCount);
    return;
  }
  const auto* it = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                                    [](const Decomposition& d, char32_t c) { return d.code < c; });
  if (it == std::end(kDecompositions) || it->code != code) {
    out.push_back(code);
    return;
  }
  decompose(it->first, out);
  if (it->second) decompose(it->second, out);
}

/// The composite of two code points, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first >= kLeads && first < kLeads + kLeadCount && second >= kVowels && second < kVowels + kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  if (first >= kSyllables && first < kSyllables + kSyllableCount && (first - kSyllables) % kTailCount == 0 &&
      second > kTails && second < kTails + kTailCount) {
    return first + (second - kTails);
  }
  static const auto pairs = [] {
    std::map<std::pair<char32_t, char32_t>, char32_t> all;
    for (const Decomposition& d : kDecompositions) {
      if (d.composes) all[{d.first, d.second}] = d.code;
    }
    return all;
  }();
  const auto it = pairs.find({first, second});
  return it == pairs.end() ? 0 : it->second;
}

}  // namespace

bool is_white_space(char32_t code) {
  return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
         code == 0x3000;
}

bool is_word(char32_t code) {
  static const auto pattern = [] {
    const char* text = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
    int error = 0;
    size_t offset = 0;
    pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                                         &offset, nullptr);
    OVERPROOF_CHECK(compiled);
    return std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>(compiled, &pcre2_code_free);
  }();
  std::string text;
  append_utf8(text, code);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                  &pcre2_match_data_free);
  return pcre2_match(pattern.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, match.get(), nullptr) > 0;
}

bool surely_nfc(std::string_view text) {
  // Nothing below U+0300 decomposes away or combines with what stands before it; 0xcc leads U+0300.
  return std::all_of(text.begin(), text.end(), [](char c) { return uint8_t(c) < 0xcc; });
}

std::string to_nfc(std::string_view text) {
  std::vector<char32_t> codes;
  codes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = decode_utf8(text.substr(i));
    decompose(c.code, codes);
    i += size_t(c.bytes);
  }
  // Canonical ordering: marks between two starters, sorted by class, equals staying in order.
  std::vector<int> classes(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) classes[i] = combining_class(codes[i]);
  for (size_t begin = 0; begin < codes.size();) {
    if (classes[begin] == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    std::vector<std::pair<int, char32_t>> marks;
    for (; end < codes.size() && classes[end] != 0; ++end) marks.emplace_back(classes[end], codes[end]);
    std::stable_sort(marks.begin(), marks.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = begin; i < end; ++i) classes[i] = marks[i - begin].first, codes[i] = marks[i - begin].second;
    begin = end;
  }
  // Composition: each mark joins the last starter unless a mark of the same or a higher class stands between them.
  std::vector<char32_t> out;
  size_t starter = size_t(-1);
  int last_class = -1;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (starter != size_t(-1) && (last_class < classes[i] || last_class == -1)) {
      if (const char32_t joined = compose(out[starter], codes[i])) {
        out[starter] = joined;
        continue;
      }
    }
    if (classes[i] == 0) {
      starter = out.size();
      last_class = -1;
    } else {
      last_class = classes[i];
    }
    out.push_back(codes[i]);
  }
  std::string result;
  result.reserve(text.size());
  for (const char32_t code : out) append_utf8(result, code);
  return result;
}

}  // namespace overproof
