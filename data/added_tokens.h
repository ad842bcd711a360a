#pragma once
// Tokens that are found in the text before anything else is done to it ("<|im_start|>"), as Hugging Face's
// AddedVocabulary finds them: leftmost, longest first, with the flags of each.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace overproof {

struct AddedToken {
  int32_t id = -1;
  std::string text;
  bool special = false;      ///< a control token: found only when the caller asks for it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< looked for in the normalised text, not in the raw one
  bool single_word = false;  ///< counts only when no word character touches it
  bool operator==(const AddedToken&) const = default;
};

/// A stretch of text: an added token when id >= 0, plain text otherwise.
struct TextPart {
  std::string_view text;
  int32_t id = -1;
};

/// Of added tokens, and of pieces that a library looks for at every place of a text: real ones have tens of bytes.
inline constexpr size_t kLongestAddedToken = 1024;

class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  /// Keeps those of `tokens` whose `normalized` flag is as asked. Empty texts are left out.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized);
  /// Appends the parts of `text`, in order, none empty. Time: O(text x longest token), with tokens of at most kLongestAddedToken.
  /// `allowed(begin, end)`, for ascending places: whether a token may be found there; a match that may not be hides nothing.
  void split(std::string_view text, bool parse_special, std::vector<TextPart>& parts,
             const std::function<bool(size_t begin, size_t end)>& allowed = {}) const;
  bool empty() const { return tokens_.empty(); }

 private:
  const AddedToken* longest_at(std::string_view text) const;
  std::vector<AddedToken> tokens_;                   // sorted by text
  std::vector<int64_t> prefix_;                      // of each token, the longest other that it begins with; -1: none
  std::vector<std::pair<size_t, size_t>> by_first_;  // [begin, end) in tokens_ for each first byte
};

}  // namespace overproof
