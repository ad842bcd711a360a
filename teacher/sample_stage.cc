#include "teacher/sample_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/utf8.h"
#include "data/bpe.h"
#include "data/corpus.h"
#include "data/sampler.h"
#include "data/tokenizer.h"
#include "model/decoder.h"
#include "records/document_spool.h"
#include "records/sampled_tokens.h"
#include "teacher/last_logits.h"

namespace overproof {
namespace {

constexpr int64_t kSaveEvery = 16;  // documents

struct Prompt {
  std::vector<int32_t> ids;
  std::string name;  ///< of the document that it begins; "" for the model's beginning-of-text token
  Digest digest;
};

/// Whether more bytes can make `text` valid UTF-8.
bool can_be_completed(std::string_view text) {
  const int64_t fault = invalid_utf8_at(text);
  if (fault < 0) return true;
  const std::string_view rest = text.substr(size_t(fault));
  const auto lead = uint8_t(rest[0]);
  return lead >= 0xc2 && lead <= 0xf4 && size_t(decode_utf8(rest).bytes) == rest.size();
}

/// The bytes of the ids of a tokenizer whose tokens may hold parts of a character. decode() would put U+FFFD there.
class TokenBytes {
 public:
  explicit TokenBytes(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), splits_characters_(dynamic_cast<const BpeTokenizer*>(&tokenizer) != nullptr) {}
  bool splits_characters() const { return splits_characters_; }
  std::string of(int32_t id) const {
    const std::string text = tokenizer_.token_text(id);
    return byte_level_bytes(text).value_or(text);
  }

 private:
  const Tokenizer& tokenizer_;
  bool splits_characters_;
};

class DocumentWriter {
 public:
  DocumentWriter(const Decoder& teacher, const Tokenizer& tokenizer, const SampleConfig& config, const WatermarkKey* watermark)
      : teacher_(teacher), tokenizer_(tokenizer), bytes_(tokenizer), config_(config), watermark_(watermark) {}

  /// The ids of document `number`, without the end token.
  std::vector<int32_t> write(const Prompt& prompt, int64_t number) const {
    Rng rng(uint64_t(config_.seed), "sample", uint64_t(number));
    std::vector<int32_t> ids = prompt.ids, drawn;
    std::string unfinished;  // bytes of the last character, as far as drawn
    size_t whole = 0;        // ids up to the last complete character
    KvCache cache;
    at::Tensor next = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
    while (int64_t(drawn.size()) < config_.max_tokens) {
      throw_if_interrupted();
      std::vector<float> logits = last_logits(teacher_, teacher_.hidden_cached(next, cache));
      const int32_t id = draw(logits, ids, unfinished, rng);
      if (id < 0) break;
      ids.push_back(id);
      drawn.push_back(id);
      if (unfinished.empty()) whole = drawn.size();
      next = at::full({1, 1}, int64_t(id), at::kLong);
    }
    drawn.resize(whole);  // a character that the last tokens only began is left out
    return drawn;
  }

 private:
  /// -1: the end. A document is UTF-8, so tokens that would break it are not drawn.
  int32_t draw(std::vector<float>& logits, const std::vector<int32_t>& ids, std::string& unfinished, Rng& rng) const {
    const SamplingOptions sampling{config_.temperature, config_.top_p, config_.watermark_strength};
    for (size_t tries = 0; tries < logits.size(); ++tries) {
      const int32_t id = sample_token(logits, ids, sampling, watermark_, rng);
      if (id == tokenizer_.eos_id() || id == teacher_.config().eos_id || id >= tokenizer_.vocab_size()) return -1;
      if (!bytes_.splits_characters()) return id;
      const std::string text = unfinished + bytes_.of(id);
      if (can_be_completed(text)) {
        const int64_t fault = invalid_utf8_at(text);
        unfinished = fault < 0 ? "" : text.substr(size_t(fault));
        return id;
      }
      logits[size_t(id)] = kExcludedLogit;
    }
    return -1;
  }

  const Decoder& teacher_;
  const Tokenizer& tokenizer_;
  TokenBytes bytes_;
  const SampleConfig& config_;
  const WatermarkKey* watermark_;
};

std::vector<Prompt> read_prompts(const SampleConfig& config, const Inputs& inputs, const Tokenizer& tokenizer,
                                 const ModelConfig& model) {
  if (!inputs.has("corpus")) {
    const int32_t begin = tokenizer.bos_id() >= 0   ? tokenizer.bos_id()
                          : tokenizer.eos_id() >= 0 ? tokenizer.eos_id()
                                                    : int32_t(model.bos_id);
    if (begin < 0) throw MismatchError("the model has no beginning-of-text token; give prompts with --corpus");
    return {{{begin}, "", {}}};
  }
  std::vector<Prompt> prompts;
  for_each_text_while(inputs.path("corpus"), [&](const Document& document, std::string_view text) {
    if (document.split != Split::train) return true;
    Prompt prompt{{}, document.name, document.digest};
    tokenizer.encode(text, prompt.ids);
    if (int64_t(prompt.ids.size()) > config.prompt_tokens) prompt.ids.resize(size_t(config.prompt_tokens));
    if (!prompt.ids.empty()) prompts.push_back(std::move(prompt));
    return int64_t(prompts.size()) < config.count;
  });
  if (prompts.empty()) throw MismatchError("the corpus has no training document to take a prompt from");
  return prompts;
}

/// Share of the tokens that are green, of those with enough tokens before them.
struct GreenShare {
  int64_t green = 0, scored = 0;
  void count(const WatermarkKey& key, const std::vector<int32_t>& before, const std::vector<int32_t>& drawn) {
    std::vector<int32_t> all = before;
    for (const int32_t id : drawn) {
      if (int64_t(all.size()) >= key.context()) {
        ++scored;
        green += key.after(all).green(id);
      }
      all.push_back(id);
    }
  }
  double value() const { return scored > 0 ? double(green) / double(scored) : 0.0; }
};

}  // namespace

StageReport run_sample(const SampleConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const auto tokenizer = open_tokenizer(inputs.path("teacher"));
  const Decoder teacher(open_checkpoint(inputs.path("teacher")));
  std::optional<WatermarkKey> watermark;
  if (inputs.has("watermark-key")) watermark = WatermarkKey::read(inputs.path("watermark-key"));
  const std::vector<Prompt> prompts = read_prompts(config, inputs, *tokenizer, teacher.config());
  const DocumentWriter writer(teacher, *tokenizer, config, watermark ? &*watermark : nullptr);
  DocumentSpool spool(outputs.scratch(), outputs.stage_key(), config.count, teacher.config().vocab_size);
  const auto prompt_of = [&](int64_t document) -> const Prompt& { return prompts[size_t(document) % prompts.size()]; };
  const auto done_before = int64_t(spool.documents().size());
  {
    Progress progress("sample", config.count, "documents", done_before);
    for (int64_t i = done_before; i < config.count; ++i) {
      spool.append(writer.write(prompt_of(i), i));
      if ((i + 1) % kSaveEvery == 0) spool.save();
      progress.update(i + 1);
    }
  }

  OutputFolder& folder = outputs.folder();
  const std::string teacher_name = inputs.path("teacher").filename().string(), root = inputs.root("teacher").hex();
  const std::string source = fmt::format("{} sha256:{}", teacher_name, root);
  std::string records, ids;
  int64_t documents = 0, tokens = 0, empty = 0;
  GreenShare share;
  for (int64_t i = 0; i < config.count; ++i) {
    const Prompt& prompt = prompt_of(i);
    const std::vector<int32_t>& drawn = spool.documents()[size_t(i)];
    if (drawn.empty()) {
      ++empty;
      continue;
    }
    const std::string name = fmt::format("samples/{:06}.txt", i);
    folder.write_file(name, tokenizer->decode(drawn));
    Json parents = Json::array({{{"slot", "teacher"}, {"name", teacher_name}, {"digest", "sha256:" + root}}});
    if (!prompt.name.empty())
      parents.push_back({{"slot", "prompt"}, {"name", prompt.name}, {"digest", "sha256:" + prompt.digest.hex()}});
    records += Json{{"name", name}, {"license", config.license}, {"source", source}, {"parents", parents}}.dump() + "\n";
    const size_t kept = watermark ? std::min(prompt.ids.size(), size_t(watermark->context())) : 0;
    const std::vector<int32_t> before(prompt.ids.end() - ptrdiff_t(kept), prompt.ids.end());
    ids += sampled_tokens_line(name, {before, drawn});
    if (watermark) share.count(*watermark, before, drawn);
    ++documents;
    tokens += int64_t(drawn.size());
  }
  if (documents == 0) throw MismatchError("the teacher ended every document at once, so there is no text");

  Json facts = {{"format", "overproof-samples-1"},
                {"teacher", {{"name", teacher_name}, {"digest", "sha256:" + root}}},
                {"documents", documents},
                {"tokens", tokens},
                {"empty", empty},
                {"seed", config.seed},
                {"temperature", config.temperature},
                {"top_p", config.top_p},
                {"max_tokens", config.max_tokens}};
  StageReport report;
  report.metrics() = {{"documents", documents}, {"tokens", tokens}, {"empty", empty}};
  report.summary.push_back(fmt::format("{} documents, {} tokens{}", documents, tokens,
                                       empty > 0 ? fmt::format("; {} empty ones left out", empty) : ""));
  if (done_before > 0)
    report.summary.push_back(fmt::format("resumed: {} of the documents were sampled by an earlier run", done_before));
  if (watermark) {
    facts["watermark"] = {{"scheme", "green-list"},
                          {"commitment", "sha256:" + watermark->commitment().hex()},
                          {"green_fraction", watermark->green_fraction()},
                          {"context", watermark->context()},
                          {"strength", config.watermark_strength},
                          {"green", share.value()}};
    report.metrics()["watermark"] = facts["watermark"];
    report.summary.push_back(fmt::format("watermark: {:.1f} % of the tokens are green, without a watermark {:.1f} % would be; commitment sha256:{}",
                                         100 * share.value(), 100 * watermark->green_fraction(), watermark->commitment().hex()));
  }
  folder.write_file("documents.jsonl", records);
  folder.write_file(kSampledTokensName, ids);
  folder.write_file("sampling.json", facts.dump(1) + "\n");
  return report;
}

}  // namespace overproof
