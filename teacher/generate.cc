#include "teacher/generate.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/chat_template.h"
#include "data/marked_text.h"
#include "data/sampler.h"
#include "data/tokenizer.h"
#include "formats/generation_config.h"
#include "model/generator.h"
#include "teacher/last_logits.h"
#include "teacher/text_stream.h"

namespace overproof {
namespace {

/// Writes one text after another with one cache.
class TextGenerator {
 public:
  TextGenerator(const GenerateConfig& config, const fs::path& model)
      : config_(config),
        checkpoint_(open_checkpoint(model)),
        generator_(checkpoint_),  // first: an architecture that is not known is the heavier fault
        tokenizer_(open_tokenizer(model)),
        penalty_(config.repetition_penalty > 0 ? config.repetition_penalty : repetition_penalty(model)),
        rng_(uint64_t(config.seed), "generate") {
    if (!config.watermark_key.empty()) watermark_ = WatermarkKey::read(config.watermark_key);
    for (const int64_t id : end_ids(model, *checkpoint_.config)) ends_.insert(int32_t(id));
    if (ends_.empty()) ends_.insert(tokenizer_->eos_id());  // a base model may leave them to its tokenizer
  }

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  void end_at(int32_t id) { ends_.insert(id); }

  struct Result {
    std::string text, ended_by = "max-tokens";
    std::vector<int32_t> ids;
    double tokens_per_second = 0;
  };
  /// Beyond its context a model answers nonsense, after a time that grows with the square of the prompt.
  void require_room_for(const std::vector<int32_t>& prompt) const {
    const int64_t context = generator_.config().context();
    if (context > 0 && int64_t(prompt.size()) >= context)
      throw UsageError(fmt::format("the prompt has {} tokens; the model's context is {}, the answer included", prompt.size(), context));
  }

  /// The continuation of `prompt`, of which the model reads what the text before does not begin with.
  Result continue_from(const std::vector<int32_t>& prompt, const TextSink& write) {
    require_room_for(prompt);
    const int64_t context = generator_.config().context();
    const auto known = std::ranges::mismatch(read_, prompt).in1;
    cache_.length = std::min<int64_t>({cache_.length, known - read_.begin(), int64_t(prompt.size()) - 1});
    cache_.expected = std::max(cache_.expected, std::min(int64_t(prompt.size()) + config_.max_tokens, context > 0 ? context : INT64_MAX));
    read_ = prompt;
    at::Tensor next = at::tensor(std::vector<int64_t>(prompt.begin() + cache_.length, prompt.end()), at::kLong).unsqueeze(0);
    const SamplingOptions sampling{config_.temperature, config_.top_p, config_.watermark_strength, penalty_};
    Result result;
    TextStream stream(*tokenizer_);
    const auto add = [&](const std::string& piece) {
      result.text += piece;
      if (write && !piece.empty()) write(piece);
    };
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < config_.max_tokens; ++i) {
      throw_if_interrupted();
      if (context > 0 && int64_t(read_.size()) > context) {
        result.ended_by = "context";
        break;
      }
      const at::Tensor hidden = generator_.hidden_cached(next, cache_);
      const std::vector<float> logits = last_logits(generator_, hidden);
      const int32_t id = sample_token(logits, read_, sampling, watermark_ ? &*watermark_ : nullptr, rng_);
      if (ends_.contains(id)) {
        result.ended_by = "end-of-text";
        break;
      }
      read_.push_back(id);
      result.ids.push_back(id);
      if (id < tokenizer_->vocab_size()) add(stream.add(id));  // a row that only pads the embedding has no text
      next = at::full({1, 1}, int64_t(id), at::kLong);
    }
    add(stream.finish());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.tokens_per_second = double(result.ids.size()) / seconds;
    return result;
  }

 private:
  const GenerateConfig& config_;
  const Checkpoint checkpoint_;
  const Generator generator_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<WatermarkKey> watermark_;
  std::set<int32_t> ends_;
  const double penalty_;
  Rng rng_;
  KvCache cache_;
  std::vector<int32_t> read_;  // the ids of the text so far, of which the model has seen the first cache_.length
};

/// A conversation by the model's template.
class Conversation {
 public:
  Conversation(const GenerateConfig& config, const fs::path& model, TextGenerator& generator)
      : generator_(generator),
        encoder_(generator.tokenizer()),
        template_(config.chat_template.empty() ? open_chat_template(model, generator.tokenizer())
                                               : read_chat_template(config.chat_template, &generator.tokenizer())) {
    if (!template_)
      throw MismatchError(fmt::format("{} has no chat template; give one with --chat-template, or generate without --chat", model.string()));
    if (!config.system.empty()) add("system", config.system);
    if (const int32_t end = turn_end(); end >= 0) generator_.end_at(end);
  }

  TextGenerator::Result answer(const std::string& message, const TextSink& write) {
    add("user", message);
    const RenderedChat chat = render(messages_, true);
    TextGenerator::Result result = generator_.continue_from(encoder_.encode(chat.text, chat.quoted, {}).ids, write);
    add("assistant", result.text);
    return result;
  }

  const Json& messages() const { return messages_; }

 private:
  void add(const char* role, const std::string& content) { messages_.push_back({{"role", role}, {"content", content}}); }

  RenderedChat render(const Json& messages, bool add_generation_prompt) const {
    return template_->render(Json{{"messages", messages}}.dump(), {int64_t(messages.size()), add_generation_prompt}).whole;
  }

  /// The special token behind an answer; -1 where the template writes none.
  int32_t turn_end() const {
    constexpr const char* kSaid = "overproof";
    Json messages = messages_;
    messages.push_back({{"role", "user"}, {"content", "?"}});
    messages.push_back({{"role", "assistant"}, {"content", kSaid}});
    const RenderedChat chat = render(messages, false);
    const size_t said = chat.text.rfind(kSaid);
    if (said == std::string::npos) return -1;
    for (const MarkedEncoder::Part& part : encoder_.split(chat.text, chat.quoted))
      if (part.id >= 0 && part.bytes.begin > int64_t(said)) return part.id;
    return -1;
  }

  TextGenerator& generator_;
  MarkedEncoder encoder_;
  std::unique_ptr<ChatTemplate> template_;
  Json messages_ = Json::array();
};

Answer chat(const GenerateConfig& config, const fs::path& model, const TextSink& write, const MessageSource& next_message) {
  if (!config.prompt.empty() && !config.message.empty()) throw UsageError("options 'prompt' and 'message' are both the user's message; give one");
  TextGenerator generator(config, model);
  Conversation conversation(config, model, generator);
  const std::string only = config.message.empty() ? config.prompt : config.message;
  if (only.empty() && !next_message) throw UsageError("option 'message' is empty; with --json a conversation has one turn");
  Answer answer;
  const auto say = [&](const std::string& message) {
    const TextGenerator::Result result = conversation.answer(message, write);
    answer.json = {{"prompt", message},
                   {"text", result.text},
                   {"ids", result.ids},
                   {"ended_by", result.ended_by},
                   {"tokens_per_second", result.tokens_per_second}};
    answer.text = (write ? "" : result.text) + "\n";
  };
  if (!only.empty()) {
    say(only);
  } else {
    while (const std::optional<std::string> message = next_message()) {
      if (message->empty()) continue;
      say(*message);
      if (write) write("\n");
      answer.text.clear();
    }
  }
  answer.json["messages"] = conversation.messages();
  return answer;
}

}  // namespace

Answer run_generate(const GenerateConfig& config, const fs::path& model, const TextSink& write, const MessageSource& next_message) {
  prepare_torch();
  at::NoGradGuard no_grad;
  if (!fs::exists(model)) throw IoError(model, "the model is not there", ENOENT);
  if (config.chat) return chat(config, model, write, next_message);
  if (!config.message.empty() || !config.system.empty() || !config.chat_template.empty())
    throw UsageError("options 'message', 'system' and 'chat-template' need --chat");
  TextGenerator generator(config, model);
  std::vector<int32_t> ids;
  generator.tokenizer().encode(config.prompt, ids);
  if (ids.empty() && generator.tokenizer().bos_id() >= 0) ids.push_back(generator.tokenizer().bos_id());
  if (ids.empty()) throw UsageError("option 'prompt' is empty, and the model has no beginning-of-text token to start from");
  generator.require_room_for(ids);
  if (write) write(config.prompt);
  const TextGenerator::Result result = generator.continue_from(ids, write);
  Answer answer;
  answer.json = {{"prompt", config.prompt},
                 {"text", result.text},
                 {"ids", result.ids},
                 {"ended_by", result.ended_by},
                 {"tokens_per_second", result.tokens_per_second}};
  answer.text = (write ? "" : result.text) + "\n";
  return answer;
}

}  // namespace overproof
