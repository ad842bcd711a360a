#include "teacher/text_stream.h"

namespace overproof {

// A decoder looks at neighbours (SentencePiece drops the space before a first piece), so new ids are decoded together with those
// just before them, and the text of those is taken off again.
std::string TextStream::add(int32_t id) {
  window_.push_back(id);
  const std::string all = tokenizer_.decode(window_);
  if (all.ends_with("\xEF\xBF\xBD")) return "";  // U+FFFD: a character is not complete
  const size_t before = returned_ == 0 ? 0 : tokenizer_.decode({window_.begin(), window_.begin() + ptrdiff_t(returned_)}).size();
  window_.erase(window_.begin(), window_.begin() + ptrdiff_t(returned_));
  returned_ = window_.size();
  return all.size() > before ? all.substr(before) : "";
}

std::string TextStream::finish() {
  const size_t before = returned_ == 0 ? 0 : tokenizer_.decode({window_.begin(), window_.begin() + ptrdiff_t(returned_)}).size();
  const std::string all = tokenizer_.decode(window_);
  window_.clear();
  returned_ = 0;
  return all.size() > before ? all.substr(before) : "";
}

}  // namespace overproof
