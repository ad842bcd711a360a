#include "data/chat_ml.h"

#include <string>

namespace overproof {
namespace {

/// The id of a special token; -1 when the tokenizer has none of that text.
int32_t special_id(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, ids, true);
  return ids.size() == 1 && tokenizer.token_text(ids[0]) == text ? ids[0] : -1;
}

constexpr std::string_view kStart = "<|im_start|>", kEnd = "<|im_end|>";

}  // namespace

std::optional<ChatMl> ChatMl::of(const Tokenizer& tokenizer) {
  const int32_t start = special_id(tokenizer, kStart), end = special_id(tokenizer, kEnd);
  if (start < 0 || end < 0) return std::nullopt;
  return ChatMl(tokenizer, start, end);
}

void ChatMl::open(std::string_view role, std::string_view text, std::vector<int32_t>& ids) const {
  ids.push_back(start_);
  tokenizer_->encode(std::string(role) + "\n" + std::string(text), ids);
}

void ChatMl::close(std::vector<int32_t>& ids) const {
  ids.push_back(end_);
  tokenizer_->encode("\n", ids);
}

std::vector<int32_t> ChatMl::question(std::string_view text) const {
  std::vector<int32_t> ids;
  open("user", text, ids);
  close(ids);
  open("assistant", "", ids);
  return ids;
}

int32_t text_begin_id(const Tokenizer& tokenizer) {
  const int32_t begin = tokenizer.bos_id();
  if (begin >= 0 && tokenizer.token_text(begin) != kStart) return begin;
  if (const int32_t end = special_id(tokenizer, "<|endoftext|>"); end >= 0) return end;
  return begin >= 0 ? begin : tokenizer.eos_id();
}

}  // namespace overproof
