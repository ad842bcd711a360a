#include "data/token_alignment.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "core/utf8.h"
#include "data/bpe.h"

namespace overproof {
namespace {

constexpr std::string_view kPieceSpace = "\xe2\x96\x81";  // U+2581, a space in SentencePiece

/// The byte of a piece such as <0x0A>.
std::optional<char> byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return std::nullopt;
    value = 16 * value + digit;
  }
  return char(value);
}

std::string bytes_of_piece(std::string_view piece) {
  if (const auto byte = byte_of_piece(piece)) return std::string(1, *byte);
  std::string bytes;
  for (size_t at = 0; at < piece.size();) {
    const bool space = piece.substr(at).starts_with(kPieceSpace);
    bytes += space ? ' ' : piece[at];
    at += space ? kPieceSpace.size() : 1;
  }
  return bytes;
}

std::optional<int32_t> separator_in(const Tokenizer& tokenizer) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.token_text(id) == "<|endoftext|>") return id;
  return tokenizer.eos_id() < 0 ? std::nullopt : std::optional(tokenizer.eos_id());
}

/// How many bytes at the beginning of `text` are the rest of a character, and how many at its end the beginning of one.
std::pair<size_t, size_t> cut_characters(std::string_view text) {
  size_t front = 0;
  while (front < text.size() && front < 3 && (uint8_t(text[front]) & 0xc0) == 0x80) ++front;
  for (size_t back = 1; back <= 3 && back <= text.size() - front; ++back) {
    const auto lead = uint8_t(text[text.size() - back]);
    if ((lead & 0xc0) == 0x80) continue;
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    return {front, length > back ? back : 0};
  }
  return {front, 0};
}

}  // namespace

std::vector<TokenSpan> align_ends(std::span<const int64_t> a_ends, std::span<const int64_t> b_ends) {
  std::vector<TokenSpan> spans;
  size_t a = 0, b = 0, a_begin = 0, b_begin = 0;
  while (a < a_ends.size() && b < b_ends.size()) {
    if (a_ends[a] != b_ends[b]) {
      ++(a_ends[a] < b_ends[b] ? a : b);
      continue;
    }
    ++a, ++b;
    spans.push_back({int64_t(a_begin), int64_t(a), int64_t(b_begin), int64_t(b)});
    a_begin = a, b_begin = b;
  }
  return spans;
}

TokenSpelling::TokenSpelling(const Tokenizer& tokenizer)
    : bytes_(size_t(tokenizer.vocab_size())), special_(size_t(tokenizer.vocab_size())), fallback_(size_t(tokenizer.vocab_size())) {
  const bool byte_level = dynamic_cast<const BpeTokenizer*>(&tokenizer) != nullptr;
  for (size_t id = 0; id < bytes_.size(); ++id) {
    const std::string text = tokenizer.token_text(int32_t(id));
    bytes_[id] = byte_level ? byte_level_bytes(text).value_or(text) : bytes_of_piece(text);
    fallback_[id] = !byte_level && byte_of_piece(text);
  }
  for (const AddedToken& token : tokenizer.special_tokens()) {
    if (token.id < 0 || size_t(token.id) >= bytes_.size()) continue;
    bytes_[size_t(token.id)] = token.text;
    special_[size_t(token.id)] = true;
  }
}

std::string_view TokenSpelling::bytes(int64_t id) const {
  return id < 0 || id >= size() ? std::string_view() : std::string_view(bytes_[size_t(id)]);
}

bool TokenSpelling::is_special(int64_t id) const { return id >= 0 && id < size() && special_[size_t(id)]; }

bool TokenSpelling::is_fallback(int64_t id) const { return id >= 0 && id < size() && fallback_[size_t(id)]; }

TokenAligner::TokenAligner(const Tokenizer& student, const Tokenizer& teacher)
    : teacher_(teacher), of_student_(student), of_teacher_(teacher) {
  std::vector<bool> taken(size_t(of_teacher_.size()));
  const auto pair_up = [&](int32_t a, int32_t b) {
    if (a < 0 || b < 0 || special_.contains(a) || taken[size_t(b)]) return;
    special_[a] = b;
    taken[size_t(b)] = true;
  };
  std::unordered_map<std::string_view, int32_t> ordinary, special;  // of the teacher, by what they spell; of equal ones the first
  for (const bool fallback : {false, true})
    for (int32_t id = 0; id < of_teacher_.size(); ++id)
      if (of_teacher_.is_fallback(id) == fallback) (of_teacher_.is_special(id) ? special : ordinary).emplace(of_teacher_.bytes(id), id);
  for (int32_t id = 0; id < of_student_.size(); ++id)
    if (of_student_.is_special(id))
      if (const auto same = special.find(of_student_.bytes(id)); same != special.end()) pair_up(id, same->second);
  pair_up(separator_in(student).value_or(-1), separator_in(teacher).value_or(-1));
  pair_up(student.eos_id(), teacher.eos_id());
  pair_up(student.bos_id(), teacher.bos_id());
  const auto pair_by_bytes = [&](int32_t id) {
    if (const auto counterpart = special_.find(id); counterpart != special_.end()) {
      common_.emplace_back(id, counterpart->second);
      return;
    }
    if (of_student_.is_special(id) || of_student_.bytes(id).empty()) return;
    const auto same = ordinary.find(of_student_.bytes(id));
    if (same == ordinary.end() || taken[size_t(same->second)]) return;
    taken[size_t(same->second)] = true;
    common_.emplace_back(id, same->second);
  };
  for (const bool fallback : {false, true})
    for (int32_t id = 0; id < of_student_.size(); ++id)
      if (of_student_.is_fallback(id) == fallback) pair_by_bytes(id);
  std::ranges::sort(common_);
}

void TokenAligner::add_text(std::span<const int64_t> ids, int64_t first, bool cut, Aligned& out) const {
  std::string bytes;
  std::vector<int64_t> ends;  // of the student's tokens
  for (const int64_t id : ids) {
    bytes += of_student_.bytes(id);
    ends.push_back(int64_t(bytes.size()));
  }
  const auto [front, back] = cut_characters(bytes);
  const std::string_view text = std::string_view(bytes).substr(front, bytes.size() - front - back);
  const auto b_first = int64_t(out.ids.size());
  teacher_.encode(text, out.ids);
  std::vector<int64_t> teacher_ends;
  std::string again;
  for (const int32_t id : std::span(out.ids).subspan(size_t(b_first))) {
    again += of_teacher_.bytes(id);
    teacher_ends.push_back(int64_t(again.size()));
  }
  if (again.size() == text.size() + 1 && again.front() == ' ') {  // what SentencePiece puts before a text
    again.erase(0, 1);
    for (int64_t& end : teacher_ends) --end;
  }
  if (again != text) return;
  int64_t skipped = 0;  // tokens of the student that end within the part of a character at the front
  while (size_t(skipped) < ends.size() && front > 0 && ends[size_t(skipped)] <= int64_t(front)) ++skipped;
  for (int64_t& end : ends) end -= int64_t(front);
  // A token that begins before the teacher's text has no span of its own bytes.
  const bool straddles = size_t(skipped) < ends.size() && (skipped > 0 ? ends[size_t(skipped) - 1] : -int64_t(front)) < 0;
  std::vector<TokenSpan> spans = align_ends(std::span(ends).subspan(size_t(skipped)), teacher_ends);
  if (straddles && !spans.empty()) spans.erase(spans.begin());
  if (cut && !spans.empty()) spans.pop_back();
  for (TokenSpan span : spans) {
    span.a_begin += first + skipped, span.a_end += first + skipped;
    span.b_begin += b_first, span.b_end += b_first;
    out.spans.push_back(span);
  }
}

TokenAligner::Aligned TokenAligner::align(std::span<const int64_t> ids) const {
  Aligned out;
  for (size_t at = 0; at < ids.size();) {
    if (const auto counterpart = special_.find(ids[at]); counterpart != special_.end()) {
      const auto a = int64_t(at), b = int64_t(out.ids.size());
      out.ids.push_back(counterpart->second);
      out.spans.push_back({a, a + 1, b, b + 1});
      ++at;
      continue;
    }
    size_t end = at;
    while (end < ids.size() && !special_.contains(ids[end])) ++end;
    add_text(ids.subspan(at, end - at), int64_t(at), end == ids.size(), out);
    at = end;
  }
  return out;
}

}  // namespace overproof
