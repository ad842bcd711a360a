#pragma once
// The text of a growing list of ids, without decoding all of them again.

#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace overproof {

class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}  ///< which must outlive this
  /// The text that one more id adds. Empty while the last character is not complete; what is returned never changes.
  std::string add(int32_t id);
  /// The rest, with U+FFFD for a character that was never completed.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> window_;  // the last ids: first those whose text was returned last, as context, then new ones
  size_t returned_ = 0;          // ids of the window whose text was returned
};

}  // namespace overproof
