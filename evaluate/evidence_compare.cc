#include "evaluate/evidence_compare.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "core/config.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "data/tokenizer.h"
#include "evaluate/evidence_scores.h"
#include "evidence/committed_order.h"
#include "evidence/distributions.h"
#include "evidence/output_tests.h"
#include "evidence/weight_tests.h"
#include "model/host_values.h"
#include "provenance/artifact.h"
#include "provenance/run_folder.h"
#include "provenance/signers.h"
#include "records/sampled_tokens.h"
#include "records/soft_targets.h"

namespace overproof {
namespace {

std::string name_of(const fs::path& path) {
  const fs::path whole = fs::absolute(path).lexically_normal();
  return whole.has_filename() ? whole.filename().string() : whole.parent_path().filename().string();
}

/// A folder with a model in it, as far as one can see without reading it.
bool is_model(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::exists(path);
  if (fs::exists(path / "config.json")) return true;
  for (const fs::directory_entry& entry : fs::directory_iterator(path))
    if (entry.path().extension() == ".gguf") return true;
  return false;
}

class Comparison {
 public:
  Comparison(const CompareConfig& config, const fs::path& a, const fs::path& b)
      : config_(config), asked_(a), b_(b), trusted_(config.trust.key()), run_(find_training_run(a, trusted_.get())) {
    if (!fs::exists(a)) throw IoError(a, "cannot read", ENOENT);
    if (!is_model(b))
      throw UsageError(fmt::format("{}: holds no model; B is the suspect: a checkpoint folder or a .gguf file", b.string()));
    if (is_model(a)) a_ = a;
    else if (run_.missing.empty()) a_ = run_.student;
    else if (run_.broken) throw ProvenanceError(fmt::format("{}: {}", a.string(), run_.missing));
    else throw UsageError(fmt::format("{}: holds no model, and as a run {}", a.string(), run_.missing));
    if (!trusted_) return;
    if (!fs::is_directory(a_))
      throw UsageError(fmt::format("{}: a file outside an artifact has no signature that --public-key could check", a_.string()));
    if (const ArtifactCheck check = check_artifact(a_, VerifyFiles::yes, trusted_.get()); !check.faults.empty())
      throw ProvenanceError(fmt::format("{}: {}", (a_ / check.faults[0].file).string(), check.faults[0].what));
  }

  const fs::path& a() const { return a_; }
  const FoundRun& run() const { return run_; }

  std::vector<EvidenceTest> tests() {
    std::vector<EvidenceTest> list;
    if (is_chosen("order")) list.push_back(order());
    if (is_chosen("weights"))
      for (EvidenceTest& test : weights()) list.push_back(std::move(test));
    if (is_chosen("agreement")) list.push_back(agreement());
    if (is_chosen("radioactivity")) list.push_back(radioactivity());
    return list;
  }

 private:
  bool is_chosen(const char* test) const {
    return config_.only.empty() || std::count(config_.only.begin(), config_.only.end(), test);
  }

  const Decoder& suspect() {
    if (!suspect_) suspect_ = std::make_unique<Decoder>(open_checkpoint(b_));
    return *suspect_;
  }

  /// Why a model cannot read ids of the tokenizer with this probe; "" when it can.
  static std::string tokenizer_fault(const fs::path& model, const Digest& probe, const std::string& what) {
    try {
      if (open_tokenizer(model)->probe() == probe) return "";
      return fmt::format("the tokenizers of '{}' and {} differ, so the same ids would be different text", name_of(model), what);
    } catch (const Error& e) {
      return fmt::format("the tokenizer of '{}' cannot be read: {}", name_of(model), e.what());
    }
  }

  std::optional<fs::path> corpus_path() const {
    if (!config_.corpus.empty()) return config_.corpus;
    if (run_.missing.empty()) return run_.corpus;
    return std::nullopt;
  }

  EvidenceTest order() {
    const auto refuse = [](const std::string& why) { return not_run("committed-order", kOrderQuestion, why); };
    if (!run_.missing.empty()) return refuse(fmt::format("{}: {}", name_of(asked_), run_.missing));
    const Corpus corpus(run_.corpus);
    const SoftTargets targets(run_.targets);
    if (targets.blocks() > corpus.windows(Split::train) || targets.window_length() != corpus.window_length())
      return refuse("the soft targets of the run are not of its corpus");
    if (const std::string fault = tokenizer_fault(b_, corpus.tokenizer_probe(), "the run's corpus"); !fault.empty())
      return refuse(fault);
    const VisitedWindows visited = visited_windows(targets.order_key(), corpus.windows(Split::train), targets.blocks(),
                                                   run_.steps * run_.batch_size, config_.windows);

    const fs::path teacher_path = config_.teacher.empty() ? run_.teacher : config_.teacher;
    const bool by_kl = config_.score == OrderScore::kl && !teacher_path.empty();
    std::unique_ptr<Decoder> teacher, reference;
    if (by_kl) teacher = std::make_unique<Decoder>(open_checkpoint(teacher_path));
    const fs::path reference_path = config_.reference == "none" ? fs::path()
                                    : config_.reference.empty() ? run_.initial
                                                                : config_.reference;
    if (!reference_path.empty()) reference = std::make_unique<Decoder>(open_checkpoint(reference_path));
    std::vector<const Decoder*> models{&suspect()};
    if (reference) models.push_back(reference.get());
    for (const Decoder* model : {static_cast<const Decoder*>(teacher.get()), models.front(), models.back()})
      if (model && model->config().vocab_size != targets.vocab_size())
        return refuse(fmt::format("a model has a vocabulary of {} tokens, the run of {}", model->config().vocab_size,
                                  targets.vocab_size()));

    std::string adjusted = teacher ? "the teacher's" : "";
    if (reference) adjusted = fmt::format("those of '{}'", name_of(reference_path));
    if (teacher && reference) adjusted = fmt::format("those of the teacher and '{}'", name_of(reference_path));

    std::vector<double> scores;
    if (!visited.windows.empty()) {
      Progress progress("compare order", int64_t(visited.windows.size()), "windows");
      const std::vector<WindowScores> all =
          score_windows(teacher.get(), models, read_windows(corpus, Split::train, visited.windows), config_.batch,
                        [&](int64_t windows) { progress.update(windows); });
      scores = by_kl ? all[0].kl : all[0].loss;
      std::vector<std::vector<double>> known;  // how hard a window is for any model; independent of the order
      if (reference)
        for (const auto& column : {all[1].loss, all[1].kl})
          if (!column.empty()) known.push_back(column);
      if (teacher) known.insert(known.end(), {all.back().loss, all.back().kl});
      scores = residuals(scores, known);
    }
    EvidenceTest test = order_test(visited.positions, scores, config_.draws, uint64_t(config_.seed));
    if (!test.ran()) return test;
    test.computed_on =
        fmt::format("{} of {} windows that '{}' was trained on, {:.2f} epochs; score: {}{}", scores.size(), visited.taught,
                    run_.student_name, visited.epochs, by_kl ? "KL to the teacher" : "loss on the text",
                    adjusted.empty() ? std::string() : fmt::format(", adjusted by scores on the same windows: {}", adjusted));
    test.details["taught_windows"] = visited.taught;
    test.details["epochs"] = visited.epochs;
    test.details["order_key"] = targets.order_key().hex();
    test.details["trained"] = {{"name", run_.student_name}, {"digest", "sha256:" + run_.student_root.hex()}};
    test.details["score"] = by_kl ? "kl" : "loss";
    test.details["reference"] = reference ? Json(name_of(reference_path)) : Json(nullptr);
    return test;
  }

  std::vector<EvidenceTest> weights() {
    const Checkpoint a = open_checkpoint(a_), b = open_checkpoint(b_);
    WeightTestOptions options;
    options.neurons = config_.neurons;
    options.permutations = config_.weight_permutations;
    options.seed = uint64_t(config_.seed);
    return weight_tests(NeuronReader(a), NeuronReader(b), options);
  }

  EvidenceTest agreement() {
    const auto refuse = [](const std::string& why) { return not_run("agreement", kAgreementQuestion, why); };
    if (config_.controls.empty()) return refuse("there is no control model (--controls)");
    const auto path = corpus_path();
    if (!path) return refuse("there is no corpus for the prompts (--corpus)");
    const Corpus corpus(*path);
    const int64_t available = corpus.windows(Split::held_out), count = std::min(available, config_.prompts);
    if (count < 1) return refuse("the corpus has no held-out window");
    std::vector<fs::path> models{b_, a_};
    models.insert(models.end(), config_.controls.begin(), config_.controls.end());
    for (const fs::path& model : models)
      if (const std::string fault = tokenizer_fault(model, corpus.tokenizer_probe(), "the corpus"); !fault.empty())
        return refuse(fault);
    std::vector<int64_t> windows;
    for (int64_t i = 0; i < count; ++i) windows.push_back(int64_t((__int128(2 * i + 1) * available) / (2 * count)));
    const at::Tensor prompts = read_windows(corpus, Split::held_out, windows).narrow(1, 0, corpus.window_length());
    Progress progress("compare answers", int64_t(models.size()) * count, "prompts");
    int64_t done = 0;
    const auto answers = [&](const Decoder& model, const fs::path& from) {
      const auto tokens =
          predict_last(model, prompts, config_.batch, [&](int64_t n) { progress.update(done + n, name_of(from)); });
      done += count;
      return tokens;
    };
    const std::vector<int32_t> from_b = answers(suspect(), b_);
    const std::vector<int32_t> from_a = answers(Decoder(open_checkpoint(a_)), a_);
    std::vector<ControlAnswers> from_controls;
    for (const std::string& control : config_.controls)
      from_controls.push_back({name_of(control), answers(Decoder(open_checkpoint(control)), control)});
    return agreement_test(from_b, from_a, from_controls);
  }

  EvidenceTest radioactivity() {
    const auto refuse = [](const std::string& why) { return not_run("radioactivity", kRadioactivityQuestion, why); };
    if (config_.watermark_key.empty())
      return refuse("there is no watermark key (--watermark-key); a watermark can be set only while the teacher is sampled");
    const WatermarkKey key = WatermarkKey::read(config_.watermark_key);
    const int64_t vocabulary = suspect().config().vocab_size, context = key.context();
    RadioactivityCount count(key);
    int64_t tokens = 0, documents = 0;
    std::string what;
    if (!config_.watermark_text.empty()) {
      Digest probe;
      try {
        probe = open_tokenizer(a_)->probe();
      } catch (const Error& e) {
        return refuse(fmt::format("the tokenizer of '{}' cannot be read: {}", name_of(a_), e.what()));
      }
      if (const std::string fault = tokenizer_fault(b_, probe, "A"); !fault.empty()) return refuse(fault);
      const std::vector<SampledTokens> texts = read_sampled_tokens(config_.watermark_text, vocabulary);
      const int64_t length = std::max<int64_t>(context + 1, 256);
      Progress progress("compare green tokens", int64_t(texts.size()), "documents");
      for (const SampledTokens& text : texts) {
        if (tokens >= config_.watermark_tokens) break;
        throw_if_interrupted();
        std::vector<int32_t> ids = text.before;
        for (const int32_t id : text.tokens) {
          if (int64_t(ids.size()) >= int64_t(text.before.size()) + context) break;  // from here on the context fits a piece
          count.skip(ids);
          ids.push_back(id);
        }
        count_document(count, text.tokens, length, context);
        tokens += int64_t(text.tokens.size());
        progress.update(++documents);
      }
      what = fmt::format("{} tokens of {} documents that were sampled with it", tokens, documents);
    } else {
      const auto path = corpus_path();
      if (!path) return refuse("there is no text for the suspect (--watermark-text or --corpus)");
      const Corpus corpus(*path);
      if (const std::string fault = tokenizer_fault(b_, corpus.tokenizer_probe(), "the corpus"); !fault.empty())
        return refuse(fault);
      const int64_t length = corpus.window_length(), available = corpus.windows(Split::held_out);
      const int64_t windows = std::min(available, (config_.watermark_tokens + length - 1) / length);
      if (windows < 1) return refuse("the corpus has no held-out window");
      Progress progress("compare green tokens", windows, "windows");
      std::vector<int64_t> ids(size_t(length) + 1);
      for (int64_t w = 0; w < windows; ++w) {
        throw_if_interrupted();
        corpus.read_window(Split::held_out, int64_t((__int128(2 * w + 1) * available) / (2 * windows)), ids);
        count_document(count, std::vector<int32_t>(ids.begin(), ids.end() - 1), length, context);
        progress.update(w + 1);
      }
      tokens = windows * length;
      what = fmt::format("{} tokens of held-out text, which must not be a sample with this key", tokens);
    }
    return count.test(fmt::format("{} contexts in {}", count.scored(), what));
  }

  /// Gives a document to the suspect in pieces. A context that begins before its piece is skipped, but counts as seen.
  void count_document(RadioactivityCount& count, const std::vector<int32_t>& ids, int64_t length, int64_t context) {
    const auto size = int64_t(ids.size());
    for (int64_t begin = 0; begin < size; begin += length) {
      const int64_t n = std::min(length, size - begin);
      const at::Tensor tokens =
          at::tensor(std::vector<int64_t>(ids.begin() + begin, ids.begin() + begin + n), at::kLong).unsqueeze(0);
      const at::Tensor best = predict_tokens(suspect(), tokens).contiguous();
      const std::span<const int64_t> predicted = host_values<int64_t>(best);
      for (int64_t i = 0; i < n; ++i) {
        const std::span<const int32_t> so_far(ids.data(), size_t(begin + i + 1));
        if (i + 1 < context) count.skip(so_far);
        else count.add(so_far, int32_t(predicted[size_t(i)]), begin + i + 1 < size ? ids[size_t(begin + i + 1)] : -1);
      }
    }
  }

  const CompareConfig& config_;
  fs::path asked_, a_, b_;
  std::shared_ptr<const PublicKey> trusted_;
  FoundRun run_;
  std::unique_ptr<Decoder> suspect_;
};

std::string described(const std::vector<EvidenceTest>& tests) {
  std::string text;
  for (const EvidenceTest& test : tests) {
    text += "\n" + test.name + "\n";
    if (!test.ran()) {
      text += "  not run: " + test.not_run + "\n";
      continue;
    }
    text += fmt::format("  {}: {:.4g}\n  p = {} ({})\n  on {}\n  null hypothesis: {}\n  cannot show {}\n", test.statistic,
                        test.value, p_text(test.log_p), test.p_kind, test.computed_on, test.question, test.cannot_show);
    for (const char* more : {"monte_carlo_p", "rank_p"})
      if (test.details.contains(more)) text += fmt::format("  {}: {:.3g}\n", more, test.details[more].get<double>());
  }
  return text;
}

}  // namespace

Answer audit_compare(const CompareConfig& config, const fs::path& a, const fs::path& b) {
  const bool of_a = run_of(a).has_value();
  const AuditRecorder recorder(config.record, of_a ? a : b);
  prepare_torch();
  at::NoGradGuard no_grad;
  Comparison comparison(config, a, b);
  const std::vector<EvidenceTest> tests = comparison.tests();
  const AuditSubject subject_a = audit_subject(comparison.a()), subject_b = audit_subject(b);
  const auto identity = [](const AuditSubject& s) { return Json{{"name", s.name}, {"digest", "sha256:" + s.root.hex()}}; };
  Answer answer;
  answer.json = {{"a", identity(subject_a)}, {"b", identity(subject_b)}, {"tests", Json::array()}};
  for (const EvidenceTest& test : tests) answer.json["tests"].push_back(test.to_json());
  answer.json["note"] =
      "each test states its null hypothesis and what it cannot show; neither one test nor all together are a verdict";
  // In the run of one, the record is named after the other.
  const std::string written =
      recorder.write(of_a ? subject_b.name : subject_a.name, {"compare", {subject_a, subject_b}, answer.json});
  answer.text = fmt::format(
      "A: {} sha256:{}\nB: {} sha256:{}\n{}\nEach test states its null hypothesis and what it cannot show; "
      "neither one test nor all together are a verdict.\n{}",
      subject_a.name, subject_a.root.hex().substr(0, 16), subject_b.name, subject_b.root.hex().substr(0, 16), described(tests),
      written);
  return of_a ? with_signers(std::move(answer), a, config.trust) : answer;
}

}  // namespace overproof
