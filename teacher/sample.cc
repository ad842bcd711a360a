#include "teacher/sample.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>
#include <ostream>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/bpe.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "core/utf8.h"
#include "model/decoder.h"
#include "provenance/artifact.h"
#include "records/sampled_tokens.h"
#include "data/sampler.h"

namespace overproof {
namespace {

struct Prompt {
  std::vector<int32_t> ids;
  const Document* document = nullptr;
};

/// UTF-8 that may still want the end of its last character.
bool may_go_on(std::string_view text) {
  const int64_t fault = invalid_utf8_at(text);
  if (fault < 0) return true;
  const std::string_view rest = text.substr(size_t(fault));
  const auto lead = uint8_t(rest[0]);
  return lead >= 0xc2 && lead <= 0xf4 && size_t(decode_utf8(rest).bytes) == rest.size();
}

/// The bytes that ids stand for. decode() puts U+FFFD where a character is not whole, which nothing could complete.
std::string bytes_of(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  if (!dynamic_cast<const BpeTokenizer*>(&tokenizer)) return tokenizer.decode(ids);
  std::string bytes;
  for (const int32_t id : ids) {
    const std::string text = tokenizer.token_text(id);
    bytes += byte_level_bytes(text).value_or(text);
  }
  return bytes;
}

class Writer {
 public:
  Writer(const Decoder& teacher, const Tokenizer& tokenizer, const SampleConfig& config, const WatermarkKey* watermark)
      : teacher_(teacher), tokenizer_(tokenizer), config_(config), watermark_(watermark) {}

  /// The ids of document `number`, without the end token.
  std::vector<int32_t> write(const Prompt& prompt, int64_t number) const {
    Rng rng(uint64_t(config_.seed), "sample", uint64_t(number));
    const SamplingOptions sampling{config_.temperature, config_.top_p, config_.watermark_strength};
    std::vector<int32_t> ids = prompt.ids, drawn;
    KvCache cache;
    at::Tensor next = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
    while (int64_t(drawn.size()) < config_.max_tokens) {
      throw_if_interrupted();
      const at::Tensor hidden = teacher_.hidden_cached(next, cache);
      const at::Tensor logits = teacher_.logits(hidden.narrow(0, hidden.size(0) - 1, 1)).contiguous();
      const int32_t id = draw({logits.data_ptr<float>(), size_t(logits.numel())}, ids, drawn, sampling, rng);
      if (id < 0) break;
      ids.push_back(id);
      drawn.push_back(id);
      next = at::full({1, 1}, int64_t(id), at::kLong);
    }
    // A character that the last tokens only began is left out.
    while (!drawn.empty() && invalid_utf8_at(bytes_of(tokenizer_, drawn)) >= 0) drawn.pop_back();
    return drawn;
  }

 private:
  /// -1: the end. A document is UTF-8, so tokens that would break it are not drawn.
  int32_t draw(std::span<float> logits, const std::vector<int32_t>& ids, std::vector<int32_t>& drawn,
               const SamplingOptions& sampling, Rng& rng) const {
    for (size_t tries = 0; tries < logits.size(); ++tries) {
      const int32_t id = sample_token(logits, ids, sampling, watermark_, rng);
      if (id == tokenizer_.eos_id() || id == teacher_.config().eos_id || id >= tokenizer_.vocab_size()) return -1;
      drawn.push_back(id);
      const bool good = may_go_on(bytes_of(tokenizer_, drawn));
      drawn.pop_back();
      if (good) return id;
      logits[size_t(id)] = -std::numeric_limits<float>::infinity();
    }
    return -1;
  }

  const Decoder& teacher_;
  const Tokenizer& tokenizer_;
  const SampleConfig& config_;
  const WatermarkKey* watermark_;
};

std::vector<Prompt> read_prompts(const SampleConfig& config, const std::optional<Corpus>& corpus, const Tokenizer& tokenizer,
                                 const ModelConfig& model) {
  std::vector<Prompt> prompts;
  if (!corpus) {
    const int32_t begin = tokenizer.bos_id() >= 0   ? tokenizer.bos_id()
                          : tokenizer.eos_id() >= 0 ? tokenizer.eos_id()
                                                    : int32_t(model.bos_id);
    if (begin < 0) throw UsageError("the model has no token to begin with; give prompts by --corpus");
    return {{{begin}, nullptr}};
  }
  for (const Document& document : corpus->documents()) {
    if (document.split != Split::train) continue;
    Prompt prompt;
    prompt.document = &document;
    tokenizer.encode(document_text(config.corpus, document), prompt.ids);
    if (int64_t(prompt.ids.size()) > config.prompt_tokens) prompt.ids.resize(size_t(config.prompt_tokens));
    if (!prompt.ids.empty()) prompts.push_back(std::move(prompt));
    if (int64_t(prompts.size()) == config.count) break;
  }
  if (prompts.empty()) throw UsageError("the corpus has no training document to begin from");
  return prompts;
}

/// Removed unless it was kept: nothing half-written stays.
struct Partial {
  fs::path path;
  ~Partial() {
    std::error_code ignored;
    if (!path.empty()) fs::remove_all(path, ignored);
  }
};

}  // namespace

int run_sample(const SampleConfig& config, const fs::path& teacher_path, bool json, std::ostream& out) {
  if (config.out.empty()) throw UsageError("sample: --out is missing (a new folder for the documents)");
  const fs::path target = fs::absolute(config.out).lexically_normal();
  if (fs::exists(target)) throw UsageError(fmt::format("{}: is there already; name a new folder", config.out));
  prepare_torch();
  at::NoGradGuard no_grad;
  const auto tokenizer = open_tokenizer(teacher_path);
  const Decoder teacher(open_checkpoint(teacher_path));
  const Digest root = scan_artifact(teacher_path).root;
  std::optional<WatermarkKey> watermark;
  if (!config.watermark_key.empty())
    watermark = WatermarkKey::load_or_create(config.watermark_key, config.green_fraction, config.watermark_context);
  std::optional<Corpus> corpus;
  if (!config.corpus.empty()) corpus.emplace(config.corpus);
  const std::vector<Prompt> prompts = read_prompts(config, corpus, *tokenizer, teacher.config());

  fs::create_directories(target.parent_path());
  Partial partial{target.parent_path() / fmt::format(".{}.partial", target.filename().string())};
  fs::remove_all(partial.path);
  fs::create_directories(partial.path / "samples");
  OutputFolder folder(partial.path);
  const std::string teacher_name = fs::absolute(teacher_path).lexically_normal().filename().string();
  const std::string source = fmt::format("{} sha256:{}", teacher_name, root.hex());
  const Writer writer(teacher, *tokenizer, config, watermark ? &*watermark : nullptr);
  std::string records, ids;
  int64_t documents = 0, tokens = 0, empty = 0, green = 0, scored = 0;
  {
    Progress progress("sample", config.count, "documents");
    for (int64_t i = 0; i < config.count; ++i) {
      const Prompt& prompt = prompts[size_t(i) % prompts.size()];
      const std::vector<int32_t> drawn = writer.write(prompt, i);
      progress.update(i + 1, fmt::format("{} tokens", tokens += int64_t(drawn.size())));
      if (drawn.empty()) {
        ++empty;
        continue;
      }
      const std::string name = fmt::format("samples/{:06}.txt", i);
      folder.write_file(name, tokenizer->decode(drawn));
      Json parents = Json::array({{{"slot", "teacher"}, {"name", teacher_name}, {"digest", "sha256:" + root.hex()}}});
      if (prompt.document)
        parents.push_back(
            {{"slot", "prompt"}, {"name", prompt.document->name}, {"digest", "sha256:" + prompt.document->digest.hex()}});
      records += Json{{"name", name}, {"license", config.license}, {"source", source}, {"parents", parents}}.dump() + "\n";
      const size_t kept = watermark ? std::min(prompt.ids.size(), size_t(watermark->context())) : 0;
      const std::vector<int32_t> before(prompt.ids.end() - ptrdiff_t(kept), prompt.ids.end());
      ids += Json{{"name", name}, {"before", before}, {"tokens", drawn}}.dump() + "\n";
      ++documents;
      if (!watermark) continue;
      std::vector<int32_t> all = before;
      for (const int32_t id : drawn) {
        if (int64_t(all.size()) >= watermark->context()) {
          ++scored;
          green += watermark->after(all).green(id);
        }
        all.push_back(id);
      }
    }
  }
  if (documents == 0) throw UsageError("the model ended every document at once; there is nothing to write");
  Json facts = {{"format", "overproof-samples-1"},
                {"teacher", {{"name", teacher_name}, {"digest", "sha256:" + root.hex()}}},
                {"documents", documents},
                {"tokens", tokens},
                {"empty", empty},
                {"seed", config.seed},
                {"temperature", config.temperature},
                {"top_p", config.top_p},
                {"max_tokens", config.max_tokens}};
  if (watermark)
    facts["watermark"] = {{"scheme", "green-list"},
                          {"commitment", "sha256:" + watermark->commitment().hex()},
                          {"green_fraction", watermark->green_fraction()},
                          {"context", watermark->context()},
                          {"strength", config.watermark_strength},
                          {"green", scored > 0 ? double(green) / double(scored) : 0.0}};
  folder.write_file("documents.jsonl", records);
  folder.write_file(kSampledTokensName, ids);
  folder.write_file("sampling.json", facts.dump(1) + "\n");
  fsync_folder(partial.path);
  fs::rename(partial.path, target);
  partial.path.clear();
  fsync_folder(target.parent_path());
  if (json) {
    facts["out"] = config.out;
    out << facts.dump() << "\n";
  } else {
    out << fmt::format("{}: {} documents, {} tokens{}\n", config.out, documents, tokens,
                       empty > 0 ? fmt::format(", {} empty ones left out", empty) : "");
    if (watermark)
      out << fmt::format("watermark: {:.1f} % of the tokens are green, {:.1f} % would be by chance; commitment sha256:{}\n",
                         100 * facts["watermark"]["green"].get<double>(), 100 * watermark->green_fraction(),
                         watermark->commitment().hex());
  }
  return 0;
}

}  // namespace overproof
