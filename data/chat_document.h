#pragma once
// A conversation as a document of a corpus: its text, as the model's template renders it, and what of it is trained.

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_records.h"
#include "data/chat_template.h"
#include "data/marked_text.h"

namespace overproof {

/// Which of the assistant's turns are trained.
enum class TrainedTurns { all, last };

struct MarkedDocument {
  std::string text;
  std::vector<ByteRange> quoted;  ///< from the conversation: special tokens that are spelled out there are text
  /// The assistant's turns, each with the token that ends it. A range that ends behind the text takes the separator along.
  std::vector<ByteRange> trained;
};

/// The ids of a document with the separator behind it, which is trained when the last range goes over the text's end.
MaskedIds encode_document(const MarkedEncoder& encoder, std::string_view text, std::span<const ByteRange> quoted,
                          std::span<const ByteRange> trained, int32_t separator);

class ChatDocuments {
 public:
  /// `chat_template` may be null: conversations are then refused. `ends`: ids that end a turn, the separator's among them if it does.
  ChatDocuments(const Tokenizer& tokenizer, std::unique_ptr<ChatTemplate> chat_template, std::set<int32_t> ends, int32_t separator,
                TrainedTurns turns);

  /// Trained are the bytes that the template's `{% generation %}` blocks made, or, without such blocks, what an assistant's message adds
  /// to the conversation before it with the generation prompt. In both cases to the token that ends the turn, and from behind an empty
  /// <think></think> block that the template wrote. Where the template writes no such token, it is the next marker, if that is an end of the model
  /// (as <|user|> of glm4_moe is). Throws FormatError: a turn whose prefix is rendered otherwise in the whole, a turn without an end.
  MarkedDocument read(std::string_view line, const fs::path& file, int64_t offset) const;
  /// The ids of a document with the separator behind it.
  MaskedIds encode(std::string_view text, std::span<const ByteRange> quoted, std::span<const ByteRange> trained, int32_t separator) const {
    return encode_document(encoder_, text, quoted, trained, separator);
  }

 private:
  MarkedDocument render(const ChatRecord& record, const fs::path& file, int64_t offset) const;
  void require_own_markers(const ChatRecord& record, const MarkedDocument& document, const fs::path& file, int64_t offset) const;
  void end_turns(MarkedDocument& document, std::vector<ByteRange> turns, const fs::path& file, int64_t offset) const;

  MarkedEncoder encoder_;
  std::unique_ptr<ChatTemplate> template_;
  std::set<int32_t> ends_;
  int32_t separator_;
  TrainedTurns turns_;
};

/// Ids that end a text or a turn of the model in `model`, by generation_config.json, config.json and the tokenizer.
std::set<int32_t> turn_end_ids(const fs::path& model, const Tokenizer& tokenizer);

}  // namespace overproof
