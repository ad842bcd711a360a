#include "data/marked_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/bpe.h"

namespace overproof {
namespace {

constexpr size_t kMostPlacesByPrefix = 64;

std::vector<AddedToken> special_of(const Tokenizer& tokenizer) {
  std::vector<AddedToken> special;
  for (AddedToken& token : tokenizer.special_tokens()) {
    token.normalized = false;
    special.push_back(std::move(token));
  }
  return special;
}

/// The range that holds `at`, if one does. `next`: the first range that may; only grows.
bool in_ranges(std::span<const ByteRange> ranges, size_t& next, int64_t at) {
  while (next < ranges.size() && ranges[next].end <= at) ++next;
  return next < ranges.size() && ranges[next].begin <= at;
}

/// What a SentencePiece token is in a text.
std::string piece_bytes(std::string_view piece) {
  if (piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with(">")) return "x";
  std::string out;
  constexpr std::string_view kSpace = "\xe2\x96\x81";
  for (size_t at = 0; at < piece.size();) {
    const bool space = piece.substr(at).starts_with(kSpace);
    out += space ? ' ' : piece[at];
    at += space ? kSpace.size() : 1;
  }
  return out;
}

}  // namespace

std::vector<ByteRange> joined_ranges(std::vector<ByteRange> ranges) {
  std::ranges::sort(ranges, {}, &ByteRange::begin);
  std::vector<ByteRange> out;
  for (const ByteRange& range : ranges) {
    if (range.begin >= range.end) continue;
    if (!out.empty() && range.begin <= out.back().end) out.back().end = std::max(out.back().end, range.end);
    else out.push_back(range);
  }
  return out;
}

MarkedEncoder::MarkedEncoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), finder_(special_of(tokenizer), false), byte_level_(dynamic_cast<const BpeTokenizer*>(&tokenizer) != nullptr) {}

std::vector<MarkedEncoder::Part> MarkedEncoder::split(std::string_view text, std::span<const ByteRange> quoted) const {
  std::vector<TextPart> found;
  finder_.split(text, true, found, [&, next = size_t{0}](size_t begin, size_t end) mutable {
    while (next < quoted.size() && quoted[next].end <= int64_t(begin)) ++next;
    return next == quoted.size() || quoted[next].begin >= int64_t(end);
  });
  if (finder_.empty() && !text.empty()) found.push_back({text, -1});
  std::vector<Part> parts;
  for (const TextPart& part : found) {
    const int64_t begin = part.text.data() - text.data();
    parts.push_back({{begin, begin + int64_t(part.text.size())}, part.id});
  }
  return parts;
}

/// Where each token ends in the text, or, of a tokenizer that changes the text, the tokens that end before the places that are asked for.
std::vector<int64_t> MarkedEncoder::ends_of(std::string_view text, const std::vector<int32_t>& ids, std::span<const int64_t> wanted, bool begins) const {
  std::vector<int64_t> ends;
  int64_t at = 0;
  for (const int32_t id : ids) {
    const std::string token = tokenizer_.token_text(id);
    at += int64_t(byte_level_ ? byte_level_bytes(token).value_or(token).size() : piece_bytes(token).size());
    ends.push_back(at);
  }
  const int64_t more = at - int64_t(text.size());
  if (more == 0) return ends;
  if (!byte_level_ && more == 1 && !ids.empty()) {  // the space that SentencePiece puts before a text
    for (int64_t& end : ends) --end;
    return ends;
  }
  // Normalised text. A place is between two tokens if the text up to it has the same tokens; else the tokens around it are taken for
  // one that begins before it.
  if (wanted.size() > kMostPlacesByPrefix)
    throw MismatchError(fmt::format("the tokenizer changes a text in which {} trained stretches begin or end without a special token between "
                                    "them; at most {} are found",
                                    wanted.size(), kMostPlacesByPrefix));
  std::ranges::fill(ends, int64_t(text.size()));
  size_t done = 0;
  for (const int64_t place : wanted) {
    std::vector<int32_t> before;
    begins ? tokenizer_.encode(text.substr(0, size_t(place)), before) : tokenizer_.encode_after_token(text.substr(0, size_t(place)), before);
    const auto common = size_t(std::ranges::mismatch(before, ids).in1 - before.begin());
    for (; done < common; ++done) ends[done] = place;
    if (common == before.size() || common >= ids.size()) continue;
    if (common > 0) ends[common - 1] = place - 1;
    ends[common] = place;
    done = std::max(done, common + 1);
  }
  return ends;
}

MaskedIds MarkedEncoder::encode(std::string_view text, std::span<const ByteRange> quoted, std::span<const ByteRange> trained, bool begins) const {
  MaskedIds out;
  size_t next = 0;
  const auto add = [&](int32_t id, int64_t begin) {
    out.ids.push_back(id);
    out.trained.push_back(in_ranges(trained, next, begin));
  };
  std::vector<int32_t> ids;
  std::vector<int64_t> wanted;
  for (const Part& part : split(text, quoted)) {
    if (part.id >= 0) {
      add(part.id, part.bytes.begin);
      continue;
    }
    const std::string_view plain = text.substr(size_t(part.bytes.begin), size_t(part.bytes.end - part.bytes.begin));
    ids.clear(), wanted.clear();
    const bool first = begins && part.bytes.begin == 0;
    first ? tokenizer_.encode(plain, ids) : tokenizer_.encode_after_token(plain, ids);
    for (size_t i = next; i < trained.size() && trained[i].begin < part.bytes.end; ++i)
      for (const int64_t place : {trained[i].begin, trained[i].end})
        if (place > part.bytes.begin && place < part.bytes.end) wanted.push_back(place - part.bytes.begin);
    const std::vector<int64_t> ends = ends_of(plain, ids, wanted, first);
    for (size_t i = 0; i < ids.size(); ++i) add(ids[i], part.bytes.begin + (i > 0 ? ends[i - 1] : 0));
  }
  return out;
}

}  // namespace overproof
