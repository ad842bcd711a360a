#include "teacher/sample_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/chat_document.h"
#include "data/chat_turns.h"
#include "data/corpus.h"
#include "data/private_corpus.h"
#include "data/tokenizer.h"
#include "formats/generation_config.h"
#include "model/generator.h"
#include "records/document_spool.h"
#include "records/sampled_tokens.h"
#include "teacher/document_writer.h"
#include "teacher/task_prompts.h"

namespace overproof {
namespace {

constexpr int64_t kSaveEvery = 16;  // documents

/// How documents begin, and what that was taken from.
struct Prompt {
  Opening opening;
  std::string name;  ///< of the corpus's document that it begins; "" for none
  Digest digest;
};

class Prompts {
 public:
  Prompts(const SampleConfig& config, const Inputs& inputs, const Tokenizer& tokenizer) : chat_share_(config.chat) {
    if (chats_before(config.count) > 0) make_chats(config, inputs.path("teacher"), tokenizer);
    if (chats_before(config.count) < config.count) read_texts(config, inputs, tokenizer);
  }
  /// Chats are spread evenly, so that what document i is does not depend on how many there are.
  const Prompt& of(int64_t document) const {
    const int64_t chats = chats_before(document);
    return chats_before(document + 1) > chats ? chats_[size_t(chats) % chats_.size()]
                                              : texts_[size_t(document - chats) % texts_.size()];
  }
  /// What a model draws where it ends a turn of a chat.
  const std::set<int32_t>& markers() const { return markers_; }

 private:
  int64_t chats_before(int64_t document) const { return int64_t(double(document) * chat_share_); }

  void make_chats(const SampleConfig& config, const fs::path& teacher, const Tokenizer& tokenizer) {
    const auto chat_template = open_chat_template(teacher, tokenizer);
    if (!chat_template) throw MismatchError(fmt::format("{} has no chat template; sample without --chat", teacher.string()));
    const std::set<int32_t> ends = turn_end_ids(teacher, tokenizer);
    const auto add = [&](const ChatTurns& asked, const ChatTurns& held) {
      chats_.push_back({{asked.opening, true, held.opening, held.bridge, held.close}, "", {}});
      for (const ChatTurns* turns : {&asked, &held}) markers_.insert(turns->markers.begin(), turns->markers.end());
    };
    const ChatTurns with_system = chat_turns(tokenizer, *chat_template, config.system, ends);
    add(with_system, with_system);
    if (!config.system.empty()) add(with_system, chat_turns(tokenizer, *chat_template, "", ends));
  }

  void read_texts(const SampleConfig& config, const Inputs& inputs, const Tokenizer& tokenizer) {
    if (!inputs.has("corpus")) {
      const int32_t begin = text_begin_id(tokenizer);
      if (begin < 0) throw MismatchError("the model has no beginning-of-text token; give prompts with --corpus");
      texts_.push_back({{{begin}}, "", {}});
      return;
    }
    const std::optional<Digest> salt = corpus_batch_salt(inputs.path("corpus"));
    for_each_text_while(inputs.path("corpus"), [&](const Document& document, std::string_view text) {
      if (document.split != Split::train) return true;
      Prompt prompt{{}, document.name, draw_key(document.digest, salt)};
      std::vector<int32_t>& ids = prompt.opening.ids;
      tokenizer.encode(text, ids);
      if (int64_t(ids.size()) > config.prompt_tokens) ids.resize(size_t(config.prompt_tokens));
      if (!ids.empty()) texts_.push_back(std::move(prompt));
      return int64_t(texts_.size()) < config.count;
    });
    if (texts_.empty()) throw MismatchError("the corpus has no training document to take a prompt from");
  }

  double chat_share_;
  std::vector<Prompt> texts_, chats_;
  std::set<int32_t> markers_;
};

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
  const Checkpoint checkpoint = open_checkpoint(inputs.path("teacher"));
  const Generator teacher(checkpoint);
  std::optional<WatermarkKey> watermark;
  if (inputs.has("watermark-key")) watermark = WatermarkKey::read(inputs.path("watermark-key"));
  std::optional<TaskPrompts> tasks;
  std::optional<Prompts> prompts;
  if (inputs.has("tasks")) {
    if (config.chat > 0 || inputs.has("corpus")) throw UsageError("sample: tasks have their own prompts; give --tasks without --corpus and --chat");
    tasks.emplace(inputs.path("tasks"), config.per_task, config.plain_prompts, inputs.path("teacher"), *tokenizer);
  } else {
    if (config.per_task != 1 || config.plain_prompts) throw UsageError("options 'per-task' and 'plain-prompts' need --tasks");
    prompts.emplace(config, inputs, *tokenizer);
  }
  const int64_t count = tasks ? tasks->count() : config.count;
  const auto opening_of = [&](int64_t i) -> const Opening& { return tasks ? tasks->opening(i) : prompts->of(i).opening; };
  std::vector<int64_t> ends = end_ids(inputs.path("teacher"), *checkpoint.config);
  const std::set<int32_t>& markers = tasks ? tasks->ends() : prompts->markers();
  ends.insert(ends.end(), markers.begin(), markers.end());
  const DocumentWriter writer(teacher, *tokenizer,
                              {.sampling = {config.temperature, config.top_p, config.watermark_strength},
                               .answer_temperature = config.answer_temperature < 0 ? std::nullopt : std::optional(config.answer_temperature),
                               .prompt_tokens = tasks || inputs.has("corpus") ? 0 : config.prompt_tokens,
                               .seed = config.seed,
                               .max_tokens = config.max_tokens,
                               .batch = config.batch_size,
                               .ends = std::move(ends)},
                              watermark ? &*watermark : nullptr);
  DocumentSpool spool(outputs.scratch(), outputs.stage_key(), count, teacher.config().vocab_size);
  const auto done_before = int64_t(spool.documents().size());
  {
    Progress progress("sample", count, "documents", done_before);
    writer.write(
        done_before, count, opening_of,
        [&](int64_t i, std::vector<int32_t> ids) {
          spool.append(std::move(ids));
          if ((i + 1) % kSaveEvery == 0) spool.save();
          progress.update(i + 1);
        });
  }

  OutputFolder& folder = outputs.folder();
  const std::string teacher_name = inputs.path("teacher").filename().string(), root = inputs.root("teacher").hex();
  const std::string source = fmt::format("{} sha256:{}", teacher_name, root);
  std::string records, ids;
  int64_t documents = 0, tokens = 0, empty = 0, chats = 0;
  GreenShare share;
  for (int64_t i = 0; i < count; ++i) {
    const Opening& opening = opening_of(i);
    const std::vector<int32_t>& document = spool.documents()[size_t(i)];
    if (document.empty()) {
      ++empty;
      continue;
    }
    const std::string name = fmt::format("samples/{:06}{}", i, tasks ? "" : ".txt");
    const std::string text = tokenizer->decode(document);
    Json parents = Json::array({{{"slot", "teacher"}, {"name", teacher_name}, {"digest", "sha256:" + root}}});
    Json record = {{"name", name}, {"license", config.license}, {"source", opening.chat ? source + " chat" : source}};
    if (tasks) {
      const Task& task = tasks->task(i);
      parents.push_back({{"slot", "task"}, {"name", task.name}, {"digest", "sha256:" + task.digest.hex()}});
      record.update(tasks->record(i, text));
      record["task"] = task.name;
    } else {
      const Prompt& prompt = prompts->of(i);
      if (!prompt.name.empty())
        parents.push_back({{"slot", "prompt"}, {"name", prompt.name}, {"digest", "sha256:" + prompt.digest.hex()}});
      folder.write_file(name, text);
      record["ids"] = document;
    }
    record["parents"] = std::move(parents);
    records += record.dump() + "\n";
    for (const DocumentWriter::Drawn& drawn : writer.drawn(opening, document)) {
      const size_t kept = watermark ? std::min(drawn.before.size(), size_t(watermark->context())) : 0;
      const std::vector<int32_t> before(drawn.before.end() - ptrdiff_t(kept), drawn.before.end());
      ids += sampled_tokens_line(name, {before, drawn.ids});
      if (watermark) share.count(*watermark, before, drawn.ids);
      tokens += int64_t(drawn.ids.size());
    }
    ++documents;
    chats += opening.chat;
  }
  if (documents == 0) throw MismatchError("the teacher ended every document at once, so there is no text");

  Metadata tokenizer_facts;
  tokenizer->identity().put_into(tokenizer_facts);
  Json facts = {{"format", "overproof-samples-1"},
                {"teacher", {{"name", teacher_name}, {"digest", "sha256:" + root}}},
                {"tokenizer", tokenizer_facts},
                {"documents", documents},
                {"chats", chats},
                {"tokens", tokens},
                {"empty", empty},
                {"seed", config.seed},
                {"temperature", config.temperature},
                {"answer_temperature", config.answer_temperature < 0 ? config.temperature : config.answer_temperature},
                {"top_p", config.top_p},
                {"max_tokens", config.max_tokens}};
  if (tasks) {
    facts["tasks"] = {{"tasks", tasks->tasks()}, {"per_task", tasks->per_task()}};
    folder.write_file("tasks.jsonl", read_file(inputs.path("tasks")));
  }
  StageReport report;
  report.metrics() = {{"documents", documents}, {"chats", chats}, {"tokens", tokens}, {"empty", empty}};
  report.summary.push_back(fmt::format("{} documents{}, {} tokens{}", documents,
                                       chats > 0 ? fmt::format(" ({} of them chats)", chats) : "", tokens,
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
