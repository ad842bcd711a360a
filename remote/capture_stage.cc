#include "remote/capture_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/order.h"
#include "records/soft_targets.h"
#include "remote/capture_plan.h"

namespace overproof {
namespace {

/// The rows of an answer as the ledger keeps them.
LedgerAnswer ledger_answer(const TeacherAnswer& answer, int64_t tokens) {
  LedgerAnswer kept{.tokens = tokens, .unnamed = answer.unnamed};
  for (const AnsweredRow& row : answer.rows)
    kept.rows.lengths.push_back(uint8_t(encode_log_probabilities(row.ids, row.logs, kept.rows.entries)));
  return kept;
}

/// Asks for everything that the ledger does not have.
class Capture {
 public:
  Capture(const CaptureConfig& config, const RemoteTeacher& teacher, const TokenNames& names, const CapturePlan& plan, AnswerLedger& ledger)
      : config_(config),
        teacher_(teacher),
        names_(names),
        plan_(plan),
        ledger_(ledger),
        key_(server_key(config.call.key_variable)),
        caller_(config.call, key_, ledger.tokens() + ledger.maybe_paid()) {}

  void run(int64_t open_tokens) {
    Progress progress("capture", open_tokens, "tokens");
    progress_ = &progress;
    // The requests of a window follow each other: a server that keeps the prefix of the last prompt computes only what is new.
    ask_all(caller_, plan_.blocks(), config_.call.concurrency, [this](HttpSession& session, int64_t block) {
      for (const CaptureRequest& part : plan_.requests(block)) ask(session, part);
    });
  }
  const Caller& caller() const { return caller_; }

 private:
  void ask(HttpSession& session, const CaptureRequest& part) {
    const RemoteRequest request = score_request(teacher_, key_, part.ids, part.text);
    if (ledger_.has(request.digest)) return;
    const AnswerShape shape{.dialect = *teacher_.dialect,
                            .prompt = part.ids,
                            .top = teacher_.top_k,
                            .vocab_size = teacher_.vocab_size,
                            .shifted = teacher_.shifted,
                            .names = &names_};
    caller_.call(session, request,
                 {.sent = [&] { ledger_.note_sent(request.digest, request.tokens); },
                  .refused = [&] { ledger_.note_refused(request.digest); },
                  .answered =
                      [&](const std::string& body) {
                        const TeacherAnswer answer = parse_teacher_answer(body, shape, "the answer");
                        require_answers_as(teacher_, answer.model);
                        if (int64_t(answer.rows.size()) != part.rows) throw FormatError("the answer", -1, "has another number of rows than was asked for");
                        const int64_t cost = paid_tokens(answer.prompt_tokens, answer.completion_tokens, request.tokens);
                        ledger_.add_answer(request.digest, ledger_answer(answer, cost));
                        return cost;
                      }});
    const std::lock_guard lock(mutex_);
    done_ += request.tokens;
    progress_->update(done_, fmt::format("{} requests, {} again", caller_.sent(), caller_.waited()));
  }

  const CaptureConfig& config_;
  const RemoteTeacher& teacher_;
  const TokenNames& names_;
  const CapturePlan& plan_;
  AnswerLedger& ledger_;
  const std::string key_;
  Caller caller_;
  std::mutex mutex_;
  Progress* progress_ = nullptr;
  int64_t done_ = 0;
};

/// What the answers of all blocks hold.
struct Collected {
  int64_t rows = 0, scored = 0, unnamed = 0, requests = 0, tokens = 0;
  double mass = 0;  ///< sum over scored rows of the probability of their ids
};

EncodedRows rows_of_block(const CapturePlan& plan, const RemoteTeacher& teacher, const AnswerLedger& ledger, int64_t block, int64_t length,
                          Collected& sum) {
  const RowEncoding encoding{RowEncoding::Kind::top_k};
  std::vector<std::vector<uint8_t>> rows(static_cast<size_t>(length));
  for (const CaptureRequest& part : plan.requests(block)) {
    const LedgerAnswer answer = ledger.answer(score_request(teacher, "", part.ids, part.text).digest);
    if (int64_t(answer.rows.lengths.size()) != part.rows)
      throw MismatchError("the ledger has an answer with another number of rows than its request; remove the ledger to ask again");
    ++sum.requests;
    sum.tokens += answer.tokens;
    sum.unnamed += answer.unnamed;
    size_t at = 0;
    for (int64_t r = 0; r < part.rows; ++r) {
      const size_t bytes = size_t(answer.rows.lengths[size_t(r)]) * size_t(encoding.entry_bytes());
      rows[size_t(part.first_row + r)].assign(answer.rows.entries.begin() + ptrdiff_t(at), answer.rows.entries.begin() + ptrdiff_t(at + bytes));
      at += bytes;
    }
  }
  EncodedRows encoded;
  for (const std::vector<uint8_t>& row : rows) {
    encoded.lengths.push_back(uint8_t(row.size() / size_t(encoding.entry_bytes())));
    encoded.entries.insert(encoded.entries.end(), row.begin(), row.end());
    sum.scored += !row.empty();
    for (size_t i = 0; i < row.size(); i += size_t(encoding.entry_bytes())) sum.mass += double(decode_entry(row.data() + i, encoding).probability);
  }
  sum.rows += length;
  return encoded;
}

void require_coverage(int64_t scored, int64_t rows, double least, std::string_view when) {
  if (double(scored) < least * double(rows))
    throw QualityError(fmt::format("{} of {} tokens {} targets, less than option 'least-coverage' of {}: the server takes text, and other windows have "
                                   "tokens that no text has. A corpus with --document-attention has more that do; or use a server that takes token ids",
                                   scored, rows, when, least));
}

/// What a capture is made of, opened and checked before anything is asked.
struct Subject {
  RemoteTeacher teacher;
  Corpus corpus;
  std::unique_ptr<Tokenizer> tokenizer;
  int64_t blocks;
  Digest key;
  TrainingOrder order;
  CapturePlan plan;

  Subject(const CaptureConfig& config, const Inputs& inputs)
      : teacher(opened(inputs.path("teacher"))),
        corpus(inputs.path("corpus")),
        tokenizer(open_tokenizer(inputs.path("teacher"))),
        blocks(capture_blocks(corpus, config.tokens)),
        key(order_key(inputs.root("corpus"), config.seed, config.order_beacon)),
        order(key, corpus.windows(Split::train), blocks),
        plan(teacher, *tokenizer, corpus, order) {
    require_tokenizer(inputs.path("teacher"), corpus.tokenizer(), "the corpus");
    if (corpus.window_length() > UINT16_MAX)
      throw MismatchError(fmt::format("the corpus has windows of {} tokens; at most {} can be asked about", corpus.window_length(), UINT16_MAX));
  }
  Subject(const Subject&) = delete;

  static RemoteTeacher opened(const fs::path& path) {
    if (!is_remote_teacher(path))
      throw MismatchError(fmt::format("{}: is no teacher behind a URL; make one with `overproof connect`, or run a local one with `overproof teach`",
                                      path.string()));
    RemoteTeacher teacher = RemoteTeacher::read(path);
    if (!teacher.dialect) throw MismatchError(fmt::format("{}: this teacher gives {}", path.string(), targets_sentence(teacher)));
    return teacher;
  }
};

}  // namespace

CaptureCount count_capture(const CaptureConfig& config, const Inputs& inputs, const fs::path& kept) {
  const Subject subject(config, inputs);
  const Digest root = inputs.root("teacher");
  const fs::path file = ledger_file(kept, root);
  std::error_code error;
  if (!fs::exists(file, error)) return subject.plan.count(nullptr);
  const MappedFile mapped(file);
  const LedgerState state = read_ledger(mapped.bytes(), root, file);
  return subject.plan.count(&state);
}

StageReport run_capture(const CaptureConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Subject subject(config, inputs);
  const RemoteTeacher& teacher = subject.teacher;
  const Corpus& corpus = subject.corpus;
  const CapturePlan& plan = subject.plan;
  const TokenNames names = token_names(*subject.tokenizer);
  const int64_t length = corpus.window_length(), blocks = subject.blocks;
  const Digest teacher_root = inputs.root("teacher"), key = subject.key;

  Collected sum;
  const RowEncoding encoding{RowEncoding::Kind::top_k, teacher.top_k, 1.0, config.seed};
  BatchSpool spool(outputs.scratch(), outputs.stage_key(), {encoding.entry_bytes(), length, blocks * length});
  std::vector<std::string> spent;
  {
    const fs::path file = ledger_file(outputs.kept(), teacher_root);
    AnswerLedger ledger(file, teacher_root);
    CaptureCount count;
    {
      const MappedFile mapped(file);
      const LedgerState state = read_ledger(mapped.bytes(), teacher_root, file);
      count = plan.count(&state);
    }
    require_coverage(count.asked_rows, count.rows, config.least_coverage, "can have");
    Capture capture(config, teacher, names, plan, ledger);
    capture.run(count.open_tokens);
    if (const int64_t answered = count.requests - count.open_requests; answered > 0)
      spent.push_back(fmt::format("resumed: {} of {} requests were answered before, and were not sent again", answered, count.requests));
    if (const int64_t maybe = ledger.maybe_paid(); maybe > 0)
      spent.push_back(fmt::format("{} tokens were sent without an answer that could be kept, and may have been paid for", maybe));
    for (int64_t block = 0; block < blocks; ++block) {
      throw_if_interrupted();
      EncodedRows rows = rows_of_block(plan, teacher, ledger, block, length, sum);
      if (block >= spool.batches()) spool.append(rows);
    }
  }
  require_coverage(sum.scored, sum.rows, config.least_coverage, "have");
  const SoftTargetsSize size = write_soft_targets({.origin = {.corpus_root = inputs.root("corpus"),
                                                              .teacher_root = teacher_root,
                                                              .order_key = key,
                                                              .order_beacon = config.order_beacon,
                                                              .evidence = Evidence::recorded},
                                                   .encoding = encoding,
                                                   .vocab_size = teacher.vocab_size,
                                                   .window_length = length,
                                                   .batch_windows = 1,
                                                   .tokenizer = corpus.tokenizer()},
                                                  [&](const auto& body) { spool.for_each(body); }, outputs.folder());
  const double scored = double(std::max<int64_t>(sum.scored, 1));
  StageReport report;
  report.metrics() = {{"windows", blocks},
                      {"tokens", size.rows},
                      {"tokens_with_targets", sum.scored},
                      {"bytes_per_token", double(size.bytes) / double(size.rows)},
                      {"ids_per_token", double(size.entries) / scored},
                      {"mean_probability_in_ids", sum.mass / scored},
                      {"entries_without_id", sum.unnamed},
                      {"requests", sum.requests},
                      {"tokens_paid", sum.tokens},
                      {"evidence", evidence_name(Evidence::recorded)},
                      {"endpoint", teacher.url},
                      {"model", teacher.model},
                      {"region", teacher.region},
                      {"dialect", std::string(dialect_name(*teacher.dialect))}};
  report.summary = {fmt::format("captured {} tokens in {} windows of {}, {} of them with targets ({:.1f} %)", size.rows, blocks, length, sum.scored,
                                100 * double(sum.scored) / double(size.rows)),
                    fmt::format("{:.1f} ids a token with {:.1f} % of the probability, the rest is the tail", double(size.entries) / scored,
                                100 * sum.mass / scored),
                    fmt::format("{} requests, {} tokens paid to {}", sum.requests, sum.tokens, url_without_secrets(teacher.url)),
                    "evidence: recorded; no audit can compute these rows again"};
  report.summary.insert(report.summary.end(), spent.begin(), spent.end());
  return report;
}

}  // namespace overproof
