#pragma once
// Documents that a model writes, many at a time: completions and chats.

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/sampler.h"
#include "data/tokenizer.h"
#include "model/generator.h"

namespace overproof {

/// What a document begins with.
struct Opening {
  std::vector<int32_t> ids;
  /// A chat: `ids` end in an open user turn. The model writes the question (as in Magpie, Xu et al. 2024), which gets at most half of the
  /// tokens, and then the answer. A completion: only what is drawn is the document.
  bool chat = false;
  /// Of a chat: what the document begins with, and the answer is written after. A system turn makes better questions, and chats are held
  /// without one as well.
  std::vector<int32_t> held = {};
  std::vector<int32_t> bridge = {}, close = {};  ///< of a chat: ChatTurns; of the bridge at least one id is in WritingOptions::ends
};

struct WritingOptions {
  SamplingOptions sampling;
  /// Instead of that of `sampling`, for what follows a prompt: the answer of a chat, and a text after the first `prompt_tokens` ids drawn.
  std::optional<double> answer_temperature = {};
  int64_t prompt_tokens = 0;
  int64_t seed = 0;
  int64_t max_tokens = 256;  ///< drawn ids of a document
  int64_t batch = 16;        ///< documents that are written at a time
  std::vector<int64_t> ends = {};  ///< ids that end a text, in addition to those of the model's and the tokenizer's own
};

class DocumentWriter {
 public:
  /// `watermark` may be null. Everything must outlive the writer.
  DocumentWriter(const Generator& model, const Tokenizer& tokenizer, const WritingOptions& options, const WatermarkKey* watermark);

  /// Writes documents first .. count - 1, opened by opening_of(number), and gives each to `done` in that order. Ids of a document:
  /// those drawn, and of a chat also what it is held after, the bridge and, where the model ended its answer, its close. A document
  /// depends on the seed, its number and its opening, not on the batch. Empty: the model ended it at once (of a chat: question or
  /// answer). An end token ends it; tokens that would break UTF-8 are not drawn, and a character that the last tokens only began is
  /// left out. Throws DivergenceError when logits are not finite, Interrupted.
  void write(int64_t first, int64_t count, const std::function<const Opening&(int64_t number)>& opening_of,
             const std::function<void(int64_t number, std::vector<int32_t> ids)>& done) const;

  /// The drawn stretches of a document that write() gave, each with all ids before it, the opening's included.
  struct Drawn {
    std::vector<int32_t> before, ids;
  };
  std::vector<Drawn> drawn(const Opening& opening, const std::vector<int32_t>& document) const;

 private:
  struct Draft;
  /// -1: the end.
  int32_t draw(std::vector<float>& logits, Draft& draft) const;
  SamplingOptions sampling_of(const Draft& draft) const;
  void take(Draft& draft, std::vector<float> logits) const;
  void end_turn(Draft& draft) const;
  std::string bytes_of(int32_t id) const;

  const Generator& model_;
  const Tokenizer& tokenizer_;
  WritingOptions options_;
  const WatermarkKey* watermark_;
  std::set<int32_t> ends_;
  bool splits_characters_;
};

}  // namespace overproof
