#include "teacher/generate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/chat_ml.h"
#include "data/sampler.h"
#include "data/tokenizer.h"
#include "formats/end_ids.h"
#include "model/generator.h"
#include "teacher/last_logits.h"
#include "teacher/text_stream.h"

namespace overproof {
namespace {

std::vector<int32_t> prompt_ids(const GenerateConfig& config, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  if (config.chat) {
    const auto chat = ChatMl::of(tokenizer);
    if (!chat) throw MismatchError("this tokenizer has no <|im_start|> and <|im_end|> tokens; generate without --chat");
    ids = chat->question(config.prompt);
  } else {
    tokenizer.encode(config.prompt, ids);
    if (ids.empty() && tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
  }
  if (ids.empty()) throw UsageError("option 'prompt' is empty, and the model has no beginning-of-text token to start from");
  return ids;
}

}  // namespace

Answer run_generate(const GenerateConfig& config, const fs::path& model, const TextSink& write) {
  prepare_torch();
  at::NoGradGuard no_grad;
  if (!fs::exists(model)) throw IoError(model, "the model is not there", ENOENT);
  const Checkpoint checkpoint = open_checkpoint(model);
  const Generator generator(checkpoint);  // first: an architecture that is not known is the heavier fault
  const auto tokenizer = open_tokenizer(model);
  std::vector<int32_t> ids = prompt_ids(config, *tokenizer);
  const size_t prompt_size = ids.size();
  // Beyond its context a model answers nonsense, after a time that grows with the square of the prompt.
  const int64_t context = generator.config().max_position;
  if (context > 0 && int64_t(prompt_size) >= context)
    throw UsageError(fmt::format("option 'prompt' has {} tokens; the model's context is {}, the answer included", prompt_size, context));

  const SamplingOptions sampling{config.temperature, config.top_p, config.watermark_strength};
  std::optional<WatermarkKey> watermark;
  if (!config.watermark_key.empty()) watermark = WatermarkKey::read(config.watermark_key);
  Rng rng(uint64_t(config.seed), "generate");
  TextStream stream(*tokenizer);
  std::string text;
  const auto add = [&](const std::string& piece) {
    text += piece;
    if (write && !piece.empty()) write(piece);
  };
  if (write && !config.chat) write(config.prompt);
  KvCache cache;
  cache.expected = std::min(int64_t(ids.size()) + config.max_tokens, generator.config().max_position);
  const auto chat = config.chat ? ChatMl::of(*tokenizer) : std::nullopt;
  const int32_t turn_end = chat ? chat->end() : -1;
  std::vector<int64_t> ends = end_ids(model, *checkpoint.config);
  if (ends.empty()) ends.push_back(tokenizer->eos_id());  // a base model may leave them to its tokenizer
  at::Tensor next = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
  std::string ended = "max-tokens";
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < config.max_tokens; ++i) {
    throw_if_interrupted();
    if (context > 0 && int64_t(ids.size()) > context) {
      ended = "context";
      break;
    }
    const at::Tensor hidden = generator.hidden_cached(next, cache);
    const std::vector<float> logits = last_logits(generator, hidden);
    const int32_t id = sample_token(logits, ids, sampling, watermark ? &*watermark : nullptr, rng);
    if (std::ranges::find(ends, id) != ends.end() || id == turn_end) {
      ended = "end-of-text";
      break;
    }
    ids.push_back(id);
    if (id < tokenizer->vocab_size()) add(stream.add(id));  // a row that only pads the embedding has no text
    next = at::full({1, 1}, int64_t(id), at::kLong);
  }
  add(stream.finish());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Answer answer;
  answer.json = {{"prompt", config.prompt},
                 {"text", text},
                 {"ids", std::vector<int32_t>(ids.begin() + ptrdiff_t(prompt_size), ids.end())},
                 {"ended_by", ended},
                 {"tokens_per_second", double(ids.size() - prompt_size) / seconds}};
  answer.text = (write ? "" : text) + "\n";
  return answer;
}

}  // namespace overproof
