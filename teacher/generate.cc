#include "teacher/generate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <ostream>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/tokenizer.h"
#include "model/decoder.h"
#include "data/sampler.h"

namespace overproof {
namespace {

std::vector<int32_t> prompt_ids(const GenerateConfig& config, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  if (config.chat) {
    std::vector<int32_t> marker;
    tokenizer.encode("<|im_start|>", marker, true);
    if (marker.size() != 1) throw UsageError("this tokenizer has no <|im_start|> token; generate without --chat");
    tokenizer.encode("<|im_start|>user\n" + config.prompt + "<|im_end|>\n<|im_start|>assistant\n", ids, true);
  } else {
    tokenizer.encode(config.prompt, ids);
    if (ids.empty() && tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
  }
  if (ids.empty()) throw UsageError("there is no prompt, and the model has no token to begin with");
  return ids;
}

/// Length of the longest prefix of `text` that does not end inside a UTF-8 character.
size_t whole_characters(std::string_view text) {
  size_t n = text.size(), back = 0;
  while (back < 3 && back < n && (uint8_t(text[n - 1 - back]) & 0xc0) == 0x80) ++back;
  if (back == n) return n;
  const auto lead = uint8_t(text[n - 1 - back]);
  const size_t need = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  return need > back + 1 ? n - 1 - back : n;
}

/// Prints decoded text as far as it is settled: a character may need several tokens.
class Stream {
 public:
  Stream(const Tokenizer& tokenizer, std::ostream* out) : tokenizer_(tokenizer), out_(out) {}
  void add(int32_t id) {
    ids_.push_back(id);
    text_ = tokenizer_.decode(ids_);
    size_t end = whole_characters(text_);
    // A decoder may also stand in U+FFFD for an unfinished character.
    while (end >= 3 && text_.compare(end - 3, 3, "\xEF\xBF\xBD") == 0) end -= 3;
    flush(end);
  }
  void finish() { flush(text_.size()); }
  const std::string& text() const { return text_; }

 private:
  void flush(size_t end) {
    if (!out_ || end <= printed_) return;
    out_->write(text_.data() + printed_, std::streamsize(end - printed_));
    out_->flush();
    printed_ = end;
  }
  const Tokenizer& tokenizer_;
  std::ostream* out_;
  std::vector<int32_t> ids_;
  std::string text_;
  size_t printed_ = 0;
};

}  // namespace

int run_generate(const GenerateConfig& config, const fs::path& model, bool json, std::ostream& out) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const auto tokenizer = open_tokenizer(model);
  const Decoder decoder(open_checkpoint(model));
  std::vector<int32_t> ids = prompt_ids(config, *tokenizer);
  const size_t prompt_size = ids.size();
  if (!json && !config.chat) out << config.prompt;

  const SamplingOptions sampling{config.temperature, config.top_p, config.watermark_strength};
  std::optional<WatermarkKey> watermark;
  if (!config.watermark_key.empty()) watermark = WatermarkKey::read(config.watermark_key);
  Rng rng(uint64_t(config.seed), "generate");
  Stream stream(*tokenizer, json ? nullptr : &out);
  KvCache cache;
  at::Tensor next = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
  std::string ended = "max-tokens";
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < config.max_tokens; ++i) {
    throw_if_interrupted();
    const at::Tensor hidden = decoder.hidden_cached(next, cache);
    const at::Tensor logits = decoder.logits(hidden.narrow(0, hidden.size(0) - 1, 1));
    const int32_t id = sample_token({logits.const_data_ptr<float>(), size_t(logits.numel())}, ids, sampling,
                                    watermark ? &*watermark : nullptr, rng);
    if (id == tokenizer->eos_id() || id == decoder.config().eos_id) {
      ended = "end-of-text";
      break;
    }
    ids.push_back(id);
    stream.add(id);
    next = at::full({1, 1}, int64_t(id), at::kLong);
  }
  stream.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (json) {
    out << Json{{"prompt", config.prompt},
                {"text", stream.text()},
                {"ids", std::vector<int32_t>(ids.begin() + ptrdiff_t(prompt_size), ids.end())},
                {"ended_by", ended},
                {"tokens_per_second", double(ids.size() - prompt_size) / seconds}}
               .dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  out << "\n";
  return 0;
}

}  // namespace overproof
