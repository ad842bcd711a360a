#include "evaluate/evaluate_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/gguf_vocabulary.h"
#include "data/tokenizer.h"
#include "evaluate/answers.h"
#include "evaluate/choice_scores.h"
#include "evaluate/compare.h"
#include "evaluate/prompts.h"
#include "evaluate/weight_reads.h"
#include "formats/model_size.h"
#include "model/decode_speed.h"
#include "model/open_model.h"
#include "records/evaluation.h"

namespace overproof {
namespace {

/// What a model writes after the prompts, and how: with its weights as they are stored (model/generator.h).
struct Writing {
  std::vector<Ids> answers, penalised;  // the latter with a repetition penalty
  double tokens_per_second = 0;
  int64_t bytes_per_token = 0;
  std::string forms;
};

struct Row {
  EvaluationRow measured;
  double tokens_per_second = 0;
  Writing writing;
};

/// The prompts, and what the teacher writes after them.
struct Questions {
  std::vector<Ids> prompts, answers;
};

constexpr const char* kQuestionsSlot = "questions";

bool is_model(const std::string& slot) { return slot != "teacher" && slot != "corpus" && slot != kQuestionsSlot; }

/// Multiple-choice questions of a file and from held-out text, and what models gave for them.
class Choices {
 public:
  Choices(const EvaluateConfig& config, const Inputs& inputs, const Tokenizer& tokenizer) : batch_(config.batch) {
    if (inputs.has(kQuestionsSlot)) questions_ = read_choice_questions(inputs.path(kQuestionsSlot));
    if (config.cloze.questions > 0)
      for (ChoiceQuestion& question : cloze_questions(inputs.path("corpus"), config.cloze)) questions_.push_back(std::move(question));
    encoded_ = encode_questions(tokenizer, adds_begin_token(inputs.path("teacher"), tokenizer), questions_);
  }
  int64_t choices() const {
    int64_t sum = 0;
    for (const ChoiceQuestion& question : questions_) sum += int64_t(question.choices.size());
    return sum;
  }
  std::vector<EvaluationTask> score(const std::string& name, const Decoder& model) {
    if (questions_.empty()) return {};
    Progress progress("score", choices(), "choices");
    const std::vector<ChoiceScore> scores =
        score_choices(model, questions_, encoded_, batch_, [&](int64_t done) { progress.update(done, name); });
    lines_[name] = score_lines(name, questions_, scores);
    return task_scores(questions_, scores);
  }
  /// Of all models, in the order of `rows`.
  std::string lines(const std::vector<EvaluationRow>& rows) const {
    std::string all;
    for (const EvaluationRow& row : rows)
      if (const auto found = lines_.find(row.name); found != lines_.end()) all += found->second;
    return all;
  }

 private:
  int64_t batch_;
  std::vector<ChoiceQuestion> questions_;
  std::vector<EncodedQuestion> encoded_;
  std::map<std::string, std::string> lines_;  // of scores.jsonl, by model
};

Writing write_answers(const fs::path& path, const Tokenizer& tokenizer, const std::vector<Ids>& prompts, double penalty) {
  if (prompts.empty()) return {};
  const Generator model(open_checkpoint(path));
  return {greedy_answers(model, tokenizer, prompts), penalty == 1 ? std::vector<Ids>() : greedy_answers(model, tokenizer, prompts, penalty), decode_speed(model, prompts[0]), model.bytes_per_token(), model.forms()};
}

Row measure(const std::string& name, const fs::path& path, const Decoder& teacher, const at::Tensor& teacher_hidden,
            const Decoder& model, const States& states, const TokenWindows& held_out, const Questions& questions,
            Choices& choices, Writing writing) {
  const Divergence d = compare_states(teacher, teacher_hidden, model, states.hidden, held_out);
  const ModelConfig& config = model.config();
  Row row;
  row.measured = {.name = name,
                  .perplexity = d.perplexity,
                  .kl_mean = d.kl_mean,
                  .kl_p99 = d.kl_p99,
                  .top1_agreement = d.top1,
                  .ffn_activation = config.ffn_activation(),
                  .parameter_activation = double(config.active_parameters()) / double(config.parameters()),
                  .bytes = weight_file_bytes(path),
                  .parameters = config.parameters(),
                  .active_parameters = config.active_parameters(),
                  .bytes_per_token = weight_bytes_per_token(path, config),
                  .calibration_error = d.calibration_error,
                  .tasks = choices.score(name, model)};
  for (size_t i = 0; i < d.kinds.size(); ++i)
    if (const KindDivergence& kind = d.kinds[i]; kind.tokens > 0)
      row.measured.texts.push_back({held_out.kinds[i], kind.tokens, kind.perplexity, kind.kl_mean, kind.top1});
  if (!questions.prompts.empty()) {
    row.measured.loops = loop_share(writing.answers);
    if (!writing.penalised.empty()) row.measured.loops_penalised = loop_share(writing.penalised);
    row.measured.answer_agreement = answer_agreement(model, questions.prompts, questions.answers);
  }
  row.writing = std::move(writing);
  row.tokens_per_second = double(held_out.tokens_read()) / (states.seconds + d.head_seconds);
  return row;
}

/// A source's name with the first eight digits of each digest in it.
std::string short_name(std::string name) {
  constexpr std::string_view kDigest = "sha256:";
  for (size_t at = 0; (at = name.find(kDigest, at)) != std::string::npos;) {
    at += kDigest.size();
    const size_t end = std::min(name.find_first_not_of("0123456789abcdef", at), name.size());
    if (end - at == 64) name.erase(at + 8, 56);
  }
  return name;
}

/// A table of the kinds of held-out text.
void add_kinds(const std::vector<Row>& rows, size_t width, std::vector<std::string>& lines) {
  if (rows.front().measured.texts.empty()) return;
  lines.push_back("by kind of text:");
  for (const Row& row : rows)
    for (const EvaluationText& text : row.measured.texts)
      lines.push_back(fmt::format("{:<{}}  {:>10.3f}  {:>8.4f}  {:>8}  {:>5.1f}%  {} tokens of {}", row.measured.name, width,
                                  *text.perplexity, *text.kl_mean, "", 100 * *text.top1_agreement, *text.tokens, short_name(text.name)));
}

/// A table of multiple-choice tasks.
void add_tasks(const std::vector<Row>& rows, size_t width, std::vector<std::string>& lines) {
  if (rows.front().measured.tasks.empty()) return;
  lines.push_back("multiple choice: share of questions with the right choice the likeliest, with its standard error; acc_norm: the likeliest per byte;");
  lines.push_back("greedy: the right choice is what the model writes, the most probable token each time");
  size_t task_width = 4;
  for (const EvaluationTask& task : rows.front().measured.tasks) task_width = std::max(task_width, task.name.size());
  lines.push_back(fmt::format("{:<{}}  {:<{}}  {:>9}  {:>15}  {:>15}  {:>7}", "model", width, "task", task_width, "questions", "acc", "acc_norm", "greedy"));
  const auto with_error = [](double value, const std::optional<double>& error) {
    return fmt::format("{:.1f}%{}", 100 * value, error ? fmt::format(" ± {:.1f}", 100 * *error) : "");
  };
  for (const Row& row : rows)
    for (const EvaluationTask& task : row.measured.tasks)
      lines.push_back(fmt::format("{:<{}}  {:<{}}  {:>9}  {:>15}  {:>15}  {:>6.1f}%", row.measured.name, width, task.name, task_width, *task.questions,
                                  with_error(*task.acc, task.acc_stderr), with_error(*task.acc_norm, task.acc_norm_stderr), 100 * *task.greedy));
}

/// A table of what the models write.
void add_answers(const std::vector<Row>& rows, const std::optional<double>& penalty, size_t width, std::vector<std::string>& lines) {
  if (!rows.front().measured.loops) return;
  lines.push_back(fmt::format("answers of {} tokens to fixed prompts, the most probable token each time:", kAnswerTokens));
  lines.push_back(fmt::format("{:<{}}  {:>8}  {:>9}  {:>9}  {:>9}  {:>12}  {:>12}  {}", "model", width, "loops", "penalised", "teacher's", "decode/s",
                              "read/token", "stored/token", "weights in memory"));
  for (const Row& row : rows) {
    const EvaluationRow& m = row.measured;
    lines.push_back(fmt::format("{:<{}}  {:>7.0f}%  {:>9}  {:>9}  {:>9.1f}  {:>9.1f} MB  {:>9.1f} MB  {}", m.name, width, 100 * *m.loops,
                                m.loops_penalised ? fmt::format("{:.0f}%", 100 * *m.loops_penalised) : "-",
                                m.answer_agreement ? fmt::format("{:.1f}%", 100 * *m.answer_agreement) : "-",
                                row.writing.tokens_per_second, double(row.writing.bytes_per_token) * 1e-6,
                                double(*m.bytes_per_token) * 1e-6, row.writing.forms));
  }
  lines.push_back("loops: answers in which four tokens in a row come up four times; penalised: the same with a repetition penalty" +
                  (penalty ? fmt::format(" of {}", *penalty) : "") + "; teacher's: the model's most probable token is that of "
                  "the teacher's answer; read/token: bytes of weights that writing a token reads here, stored/token: in the weight files");
}

std::vector<std::string> table(const std::vector<Row>& rows, const std::optional<double>& penalty, const TokenWindows& held_out) {
  const int64_t teacher_bf16 = 2 * *rows.front().measured.parameters;
  size_t width = 5;
  for (const Row& row : rows) width = std::max(width, row.measured.name.size());
  std::vector<std::string> lines;
  lines.push_back(
      fmt::format("{} held-out tokens in {} windows; KL(teacher || model) in nats a token", held_out.tokens(), held_out.windows));
  lines.push_back(fmt::format("{:<{}}  {:>10}  {:>8}  {:>8}  {:>6}  {:>6}  {:>8}  {:>8}  {:>9}  {:>10}  {:>7}  {:>9}", "model", width,
                              "perplexity", "KL", "KL p99", "top-1", "ECE", "FFN act.", "all act.", "params", "size", "of bf16",
                              "prefill/s"));
  for (const Row& row : rows) {
    const EvaluationRow& m = row.measured;
    lines.push_back(fmt::format(
        "{:<{}}  {:>10.3f}  {:>8.4f}  {:>8.3f}  {:>5.1f}%  {:>6.4f}  {:>7.1f}%  {:>7.1f}%  {:>7.2f} M  {:>7.1f} MB  {:>7.2f}  {:>9.0f}",
        m.name, width, *m.perplexity, *m.kl_mean, *m.kl_p99, 100 * *m.top1_agreement, *m.calibration_error, 100 * *m.ffn_activation,
        100 * *m.parameter_activation, double(*m.parameters) * 1e-6, double(*m.bytes) * 1e-6,
        double(*m.bytes) / double(teacher_bf16), row.tokens_per_second));
  }
  lines.push_back(fmt::format("of bf16: size over that of the teacher in bf16, {:.1f} MB; ECE: expected calibration error of the next token", double(teacher_bf16) * 1e-6));
  for (size_t i = 1; i < rows.size(); ++i) {
    const EvaluationRow& m = rows[i].measured;
    if (std::string warning = size_warning(*m.bytes, teacher_bf16, m.name, "the teacher"); !warning.empty())
      lines.push_back(std::move(warning));
  }
  add_kinds(rows, width, lines);
  add_tasks(rows, width, lines);
  add_answers(rows, penalty, width, lines);
  return lines;
}

/// A model with another tokenizer reads the same ids as other text. One without any is taken at its word.
void require_same_ids(const Corpus& corpus, const Inputs& inputs) {
  require_tokenizer(inputs.path("teacher"), corpus.tokenizer(), "the corpus");  // first: where it differs, so do all
  for (const auto& [slot, artifact] : inputs.all()) {
    if (!is_model(slot)) continue;
    try {
      require_tokenizer(artifact.path, corpus.tokenizer(), "the corpus");
    } catch (const IoError&) {
      if (!fs::is_directory(artifact.path)) throw;
    }
  }
}

/// Before any model runs.
void require_one_vocabulary(int64_t teachers, int64_t tokens, const Inputs& inputs) {
  for (const auto& [slot, artifact] : inputs.all()) {
    if (!is_model(slot)) continue;
    const Checkpoint model = open_checkpoint(artifact.path);
    const int64_t size = ModelConfig::from_json(*model.config, artifact.path / "config.json").vocab_size;
    if (size != teachers)
      throw MismatchError(fmt::format("vocabulary sizes differ: teacher {}, model '{}' {}; where the larger one only pads its embedding, remove the "
                                      "rows behind the tokenizer's {} tokens (transformers: resize_token_embeddings)",
                                      teachers, slot, size, tokens));
  }
}

}  // namespace

StageReport run_evaluate(const EvaluateConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  require_same_ids(corpus, inputs);
  const Decoder teacher = open_model_for(corpus, inputs, "teacher");
  const ComputeChoice compute = use_compute(config.compute, teacher.config().hidden_size, outputs);
  const TokenWindows held_out = held_out_windows(corpus, config.tokens, config.batch);

  int64_t models = 1;
  for (const auto& [slot, artifact] : inputs.all()) models += is_model(slot);
  Progress progress("evaluate", models * held_out.tokens_read(), "tokens");
  int64_t done = 0;
  const auto states_of = [&](const Decoder& model, const std::string& name) {
    return final_states(model, held_out, [&](int64_t tokens) { progress.update(done += tokens, name); });
  };

  const auto tokenizer = open_tokenizer(inputs.path("teacher"));
  require_one_vocabulary(teacher.config().vocab_size, tokenizer->vocab_size(), inputs);
  const auto chat_template = open_chat_template(inputs.path("teacher"), *tokenizer);
  Choices choices(config, inputs, *tokenizer);
  Questions questions{prompt_ids(*tokenizer, chat_template.get(), config.prompts), {}};
  Writing teacher_writing = write_answers(inputs.path("teacher"), *tokenizer, questions.prompts, config.repetition_penalty);
  questions.answers = teacher_writing.answers;
  const States teacher_states = states_of(teacher, "teacher");
  const at::Tensor& teacher_hidden = teacher_states.hidden;
  std::vector<Row> rows;
  for (const auto& [slot, artifact] : inputs.all()) {
    if (!is_model(slot)) continue;
    const Decoder model(open_checkpoint(artifact.path));  // one at a time in memory
    const States states = states_of(model, slot);
    rows.push_back(measure(slot, artifact.path, teacher, teacher_hidden, model, states, held_out, questions, choices,
                           write_answers(artifact.path, *tokenizer, questions.prompts, config.repetition_penalty)));
  }
  std::ranges::stable_sort(rows, {}, [](const Row& row) { return row.measured.kl_mean.value(); });
  rows.insert(rows.begin(),
              measure("teacher", inputs.path("teacher"), teacher, teacher_hidden, teacher, teacher_states, held_out, questions,
                      choices, std::move(teacher_writing)));

  Evaluation result{held_out.tokens(), held_out.windows, {}, {}};
  if (config.prompts > 0) result.prompts = config.prompts;
  if (config.prompts > 0 && config.repetition_penalty != 1) result.repetition_penalty = config.repetition_penalty;
  for (const Row& row : rows) result.rows.push_back(row.measured);
  const Json evaluation = to_json(result);
  outputs.folder().write_file(kEvaluationFile, evaluation.dump(1) + "\n");
  if (choices.choices() > 0) outputs.folder().write_file(kScoresFile, choices.lines(result.rows));

  StageReport report;
  report.metrics() = evaluation;
  report.metrics()[kComputeMetric] = compute.name();
  report.summary = table(rows, result.repetition_penalty, held_out);
  report.summary.push_back(compute.summary());
  return report;
}

}  // namespace overproof
