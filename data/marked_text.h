#pragma once
// Text with markers, such as a rendered chat, to token ids and a mask of those that are trained.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/added_tokens.h"
#include "data/jinja_engine.h"
#include "data/tokenizer.h"

namespace overproof {

struct MaskedIds {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  ///< of each id: 1 where a model should learn to write it
};

class MarkedEncoder {
 public:
  explicit MarkedEncoder(const Tokenizer& tokenizer);  ///< which must outlive it

  /// A special token, or a stretch of text between two.
  struct Part {
    ByteRange bytes;
    int32_t id = -1;
  };
  /// `quoted`, ascending: special tokens that touch one of these ranges are text.
  std::vector<Part> split(std::string_view text, std::span<const ByteRange> quoted) const;

  /// The ids are those of transformers for the same text where nothing quoted looks like a special token. An id is trained when its first byte
  /// is in one of the ranges `trained`, ascending. Throws MismatchError where a tokenizer changes text so that no place is known.
  /// `begins`: the text is not what follows other text.
  MaskedIds encode(std::string_view text, std::span<const ByteRange> quoted, std::span<const ByteRange> trained, bool begins = true) const;

 private:
  std::vector<int64_t> ends_of(std::string_view text, const std::vector<int32_t>& ids, std::span<const int64_t> wanted, bool begins) const;
  const Tokenizer& tokenizer_;
  AddedTokenFinder finder_;
  bool byte_level_;
};

/// Sorts, and joins ranges that touch.
std::vector<ByteRange> joined_ranges(std::vector<ByteRange> ranges);

}  // namespace overproof
