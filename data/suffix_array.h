#pragma once
// Sorted suffixes of a text, to find in it the longest beginnings of another text: a suffix array (Manber and Myers 1990) over
// bytes, thinned to the suffixes that begin with a word. In English that takes less than a byte for each byte of text where the
// whole array takes four, and loses no passage of whole words.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace overproof {

/// Where words begin and end, in bytes. A word is a run of Unicode word characters; in scripts written without spaces (Han, kana,
/// Thai, ...) each character begins a word of its own.
struct Words {
  std::vector<int64_t> begins, ends;  ///< of the same words; ends are one past
};
Words words_of(std::string_view utf8);

/// The suffixes of `text` that begin with a word, in the order of their bytes. `text` may hold bytes FF, which are in no word and
/// larger than every other: they part documents. It has fewer than 2^31 bytes; sorting takes 5.2 bytes of memory for each.
/// Sorted by libdivsufsort (Mori 2015).
std::vector<uint32_t> sort_word_suffixes(std::string_view text);

/// A sorted text. Both spans may be maps of a hostile file: an entry outside the text throws FormatError naming `file`, entries
/// in a wrong order give wrong answers but touch nothing else.
class SuffixArray {
 public:
  SuffixArray(std::span<const uint32_t> suffixes, std::string_view text, std::filesystem::path file)
      : suffixes_(suffixes), text_(text), file_(std::move(file)) {}
  std::string_view text() const { return text_; }
  int64_t size() const { return int64_t(suffixes_.size()); }
  /// Where in the text the suffix of a place begins.
  int64_t position(int64_t place) const;

  /// Bytes of the longest prefix of `pattern` that is in the text (at a word's beginning).
  int64_t longest_match(std::string_view pattern) const;
  /// The places [first, last) of all suffixes that begin with `pattern`.
  struct Range {
    int64_t first = 0, last = 0;
  };
  Range find(std::string_view pattern) const;

 private:
  /// The first place whose suffix is not before `pattern` (or, with `after`, that does not begin with it and is not before it).
  int64_t bound(std::string_view pattern, bool after) const;
  std::span<const uint32_t> suffixes_;
  std::string_view text_;
  std::filesystem::path file_;
};

}  // namespace overproof
