#include "data/token_alignment.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>

#include "core/error.h"
#include "core/utf8.h"
#include "data/bpe.h"

namespace overproof {
namespace {

using Ends = std::vector<int64_t>;

/// A byte-level tokenizer of single bytes, `merged` pieces, and an end token.
std::unique_ptr<Tokenizer> byte_level(const std::vector<std::string>& merged, const std::string& end = "<|endoftext|>") {
  BpeDefinition d;
  const auto spelled = [](std::string_view bytes) {
    std::string text;
    for (const char b : bytes) append_utf8(text, byte_level_char(uint8_t(b)));
    return text;
  };
  for (int b = 0; b < 256; ++b) d.tokens.push_back(spelled(std::string(1, char(b))));
  for (const std::string& piece : merged) {  // its beginning without the last byte is a token, too
    d.merges.emplace_back(spelled(piece.substr(0, piece.size() - 1)), spelled(piece.substr(piece.size() - 1)));
    d.tokens.push_back(spelled(piece));
  }
  d.pre_tokenizer = {{kGpt2Pattern}};
  const auto last = int32_t(d.tokens.size());
  d.tokens.push_back(end);
  d.added = {{.id = last, .text = end, .special = true}};
  d.bos = d.eos = last;
  return std::make_unique<BpeTokenizer>(std::move(d), "test");
}

std::vector<int64_t> ids_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids);
  return {ids.begin(), ids.end()};
}

std::string spelled(const TokenSpelling& spelling, std::span<const int64_t> ids) {
  std::string bytes;
  for (const int64_t id : ids) bytes += spelling.bytes(id);
  return bytes;
}

/// What holds of every span: the same bytes in both, after the same bytes, and no shorter pair inside.
void check_spans(const Tokenizer& a, const Tokenizer& b, std::span<const int64_t> ids, const TokenAligner::Aligned& aligned) {
  const TokenSpelling of_a(a), of_b(b);
  const std::vector<int64_t> other(aligned.ids.begin(), aligned.ids.end());
  int64_t a_last = 0, b_last = 0;
  for (const TokenSpan& s : aligned.spans) {
    REQUIRE(s.a_begin >= a_last);
    REQUIRE(s.b_begin >= b_last);
    REQUIRE(s.a_begin < s.a_end);
    REQUIRE(s.b_begin < s.b_end);
    REQUIRE(s.a_end <= int64_t(ids.size()));
    REQUIRE(s.b_end <= int64_t(other.size()));
    a_last = s.a_end, b_last = s.b_end;
    const std::string ours = spelled(of_a, ids.subspan(size_t(s.a_begin), size_t(s.a_end - s.a_begin)));
    const std::string theirs = spelled(of_b, std::span(other).subspan(size_t(s.b_begin), size_t(s.b_end - s.b_begin)));
    if (!of_a.is_special(ids[size_t(s.a_begin)])) REQUIRE(ours == theirs);
  }
}

}  // namespace

TEST_CASE("spans of two lists of ends") {
  CHECK(align_ends(Ends{1, 2, 3}, Ends{1, 2, 3}) == std::vector<TokenSpan>{{0, 1, 0, 1}, {1, 2, 1, 2}, {2, 3, 2, 3}});
  CHECK(align_ends(Ends{1, 2, 5}, Ends{2, 3, 5}) == std::vector<TokenSpan>{{0, 2, 0, 1}, {2, 3, 1, 3}});
  CHECK(align_ends(Ends{4}, Ends{1, 2, 3}).empty());
  CHECK(align_ends(Ends{}, Ends{1}).empty());
  CHECK(align_ends(Ends{2, 2, 3}, Ends{2, 3}) == std::vector<TokenSpan>{{0, 1, 0, 1}, {1, 3, 1, 2}});  // a token without bytes
  CHECK(align_ends(Ends{2, 2}, Ends{2, 2}) == std::vector<TokenSpan>{{0, 1, 0, 1}, {1, 2, 1, 2}});
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const auto list = [&] {
      Ends ends;
      for (int64_t at = 0; at < 60;) ends.push_back(at += int64_t(random() % 5));
      return ends;
    };
    const Ends a = list(), b = list();
    int64_t a_last = 0, b_last = 0;
    for (const TokenSpan& s : align_ends(a, b)) {
      REQUIRE(s.a_begin == a_last);
      REQUIRE(s.b_begin == b_last);
      a_last = s.a_end, b_last = s.b_end;
      REQUIRE(a[size_t(s.a_end) - 1] == b[size_t(s.b_end) - 1]);
    }
    const std::vector<TokenSpan> same = align_ends(a, a);
    REQUIRE(same.size() == a.size());
    for (size_t i = 0; i < same.size(); ++i) REQUIRE(same[i] == TokenSpan{int64_t(i), int64_t(i) + 1, int64_t(i), int64_t(i) + 1});
  }
}

TEST_CASE("one tokenizer is aligned with itself token by token") {
  const auto t = byte_level({"th", "the", " t", " th", " the", "ex", "in", "ing"});
  const TokenAligner aligner(*t, *t);
  CHECK(int64_t(aligner.common().size()) == t->vocab_size());
  for (const auto& [a, b] : aligner.common()) CHECK(a == b);
  const std::vector<int64_t> ids = ids_of(*t, "the thing is the text there.\n\nthe next");
  const TokenAligner::Aligned aligned = aligner.align(ids);
  CHECK(std::vector<int64_t>(aligned.ids.begin(), aligned.ids.end()) == ids);
  REQUIRE(aligned.spans.size() + 1 == ids.size());  // the end is where the text is cut
  for (size_t i = 0; i < aligned.spans.size(); ++i) CHECK(aligned.spans[i] == TokenSpan{int64_t(i), int64_t(i) + 1, int64_t(i), int64_t(i) + 1});
}

TEST_CASE("bytes agree at every boundary of two tokenizers, whatever the ids are") {
  const auto a = byte_level({"th", "the", " t", " te", " tex", " text", "in", "ing"}, "<|endoftext|>");
  const auto b = byte_level({"he", " t", " th", "ex", "ext", " i", "ng", " in"}, "</s>");
  const TokenAligner aligner(*a, *b);
  const auto end = int64_t(a->eos_id());
  const std::string text = "the text in the thing, \xc3\xa9t\xc3\xa9 \xf0\x9f\x98\x80 the text";
  std::vector<int64_t> ids = ids_of(*a, text);
  ids.push_back(end);
  const std::vector<int64_t> second = ids_of(*a, "texting in the \xe4\xb8\xad");
  ids.insert(ids.end(), second.begin(), second.end());
  TokenAligner::Aligned aligned = aligner.align(ids);
  check_spans(*a, *b, ids, aligned);
  // The end tokens are each other's, though their texts differ.
  CHECK(std::ranges::any_of(aligned.spans, [&](const TokenSpan& s) { return ids[size_t(s.a_begin)] == end && aligned.ids[size_t(s.b_begin)] == b->eos_id(); }));
  CHECK(std::ranges::any_of(aligned.spans, [](const TokenSpan& s) { return s.a_end - s.a_begin > 1 || s.b_end - s.b_begin > 1; }));
  for (size_t cut = 0; cut <= ids.size(); ++cut) {  // characters are cut, too
    const auto tail = std::span(ids).subspan(cut);
    check_spans(*a, *b, tail, aligner.align(tail));
    const auto front = std::span(ids).first(cut);
    check_spans(*a, *b, front, aligner.align(front));
  }
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {  // as a student may write: no text at all, and ids of padding
    std::vector<int64_t> any;
    for (unsigned i = 0; i < 1 + random() % 30; ++i) any.push_back(int64_t(random() % unsigned(a->vocab_size() + 3)) - 1);
    check_spans(*a, *b, any, aligner.align(any));
  }
  CHECK(aligner.align({}).spans.empty());
}

TEST_CASE("common ids spell the same and are in one pair each") {
  const auto a = byte_level({"th", "the", " t"}), b = byte_level({" t", "th", "xy"}, "<eos>");
  const TokenAligner aligner(*a, *b);
  const TokenSpelling of_a(*a), of_b(*b);
  std::vector<int32_t> ours, theirs;
  for (const auto& [x, y] : aligner.common()) {
    ours.push_back(x), theirs.push_back(y);
    if (!of_a.is_special(x)) CHECK(of_a.bytes(x) == of_b.bytes(y));
  }
  CHECK(std::ranges::is_sorted(ours));
  CHECK(std::ranges::adjacent_find(ours) == ours.end());
  std::ranges::sort(theirs);
  CHECK(std::ranges::adjacent_find(theirs) == theirs.end());
  CHECK(aligner.common().size() == 256 + 2 + 1);  // bytes, "th" and " t", the end
}

}  // namespace overproof
