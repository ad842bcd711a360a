// Error rates of the tests between models, on unrelated models:
//
//   bench_evidence --models FOLDER --teacher MODEL --corpus CORPUS [--runs 1000] [--scratch FOLDER]
//
// FOLDER holds small models trained from independent initial weights. Every run draws what is random under the test's null
// hypothesis: a key of the training order, a pair of models, a suspect with its controls, a watermark key; p-values come from the
// functions that `audit compare` calls. Prints one JSON object per test: how often p <= 0.05, 0.01 and 0.001, and a Kolmogorov-Smirnov
// test that p is uniform (for discrete statistics of p with the ties broken by a random number, which must be uniform where the
// test is exact). benchmarks/evidence.py makes the models and runs this.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/rng.h"
#include "data/order.h"
#include "evaluate/evidence_scores.h"
#include "evidence/committed_order.h"
#include "evidence/distributions.h"
#include "evidence/output_tests.h"
#include "evidence/weight_tests.h"
#include "records/sampled_tokens.h"
#include "teacher/sample_stage.h"

using namespace overproof;

namespace {

struct Setting {
  fs::path models, teacher, corpus, scratch;
  int64_t runs = 1000;
};

class Rates {
 public:
  explicit Rates(std::string name) : name_(std::move(name)), rng_(5, "evidence/ties", sha256(name_).bytes[0]) {}
  /// `next` is the logarithm of the next smaller p-value that the statistic can have.
  void add(double log_p, double log_next) {
    p_.push_back(std::exp(log_p));
    const double below = std::exp(log_next);
    broken_.push_back(below + rng_.uniform() * (p_.back() - below));
  }
  void add(double log_p) { add(log_p, log_p); }
  void print() const {
    const auto rate = [&](double at) {
      return double(std::count_if(p_.begin(), p_.end(), [&](double p) { return p <= at; })) / double(p_.size());
    };
    const UniformityTest uniform = uniformity_test(broken_);
    const Json line = {{"test", name_},
                       {"runs", p_.size()},
                       {"at_0.05", rate(0.05)},
                       {"at_0.01", rate(0.01)},
                       {"at_0.001", rate(0.001)},
                       {"smallest", *std::min_element(p_.begin(), p_.end())},
                       {"ks_distance", uniform.distance},
                       {"ks_p", uniform.p}};
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

 private:
  std::string name_;
  Rng rng_;
  std::vector<double> p_, broken_;
};

Digest key_of(int64_t number) { return order_key(sha256("benchmarks/evidence"), number); }

void order_runs(const Setting& s, const std::vector<std::unique_ptr<Decoder>>& models, const Decoder& teacher,
                const Corpus& corpus) {
  const int64_t windows = std::min<int64_t>(corpus.windows(Split::train), 512);
  std::vector<int64_t> all;
  for (int64_t w = 0; w < windows; ++w) all.push_back(w);
  const at::Tensor ids = read_windows(corpus, Split::train, all);
  std::vector<std::vector<double>> scores;
  for (const auto& model : models) {
    const std::vector<WindowScores> said = score_windows(&teacher, {model.get()}, ids, 32);
    scores.push_back(residuals(said[0].kl, {said[1].loss, said[1].kl}));
  }
  for (const auto& [name, most, visits] : {std::tuple{"committed-order", windows, 2 * windows + windows / 3},
                                           {"committed-order, 10 windows", int64_t{10}, windows}}) {
    Rates rates(name);
    for (int64_t r = 0; r < s.runs; ++r) {
      const VisitedWindows visited = visited_windows(key_of(r), windows, windows, visits, most);
      std::vector<double> values;
      for (const int64_t w : visited.windows) values.push_back(scores[size_t(r) % scores.size()][size_t(w)]);
      const EvidenceTest test = order_test(visited.positions, values, 0, 0);
      for (double& v : values) v = -v;
      // P(more) = 1 - P(at most): the opposite test.
      rates.add(test.log_p, std::log1p(-std::min(1.0, std::exp(order_test(visited.positions, values, 0, 0).log_p))));
    }
    rates.print();
  }
}

void weight_runs(const Setting& s, const std::vector<fs::path>& paths) {
  std::vector<Checkpoint> checkpoints;
  for (const fs::path& path : paths) checkpoints.push_back(open_checkpoint(path));
  std::vector<NeuronReader> readers(checkpoints.begin(), checkpoints.end());
  WeightTestOptions options;
  options.permutations = 99;
  Rates order("weights-order"), matched("weights-matched"), permuted("weights-permuted");
  int64_t done = 0;
  for (size_t distance = 1; distance < readers.size() && done < s.runs; ++distance)
    for (size_t i = 0; i + distance < readers.size() && done < s.runs; ++i, ++done) {
      options.seed = uint64_t(done);
      const std::vector<EvidenceTest> tests = weight_tests(readers[i], readers[i + distance], options);
      order.add(tests[0].log_p);
      matched.add(tests[1].log_p);
      permuted.add(tests[2].log_p, std::log(double(tests[2].details["permuted_more"].get<int64_t>()) / 100));
    }
  order.print();
  matched.print();
  permuted.print();
}

void agreement_runs(const Setting& s, const std::vector<std::unique_ptr<Decoder>>& models, const Corpus& corpus) {
  std::vector<int64_t> windows;
  for (int64_t w = 0; w < std::min<int64_t>(corpus.windows(Split::held_out), 256); ++w) windows.push_back(w);
  const at::Tensor prompts = read_windows(corpus, Split::held_out, windows).narrow(1, 0, corpus.window_length());
  std::vector<std::vector<int32_t>> answers;
  for (const auto& model : models) answers.push_back(predict_last(*model, prompts, 32));
  for (const size_t controls : {size_t{1}, size_t{4}, size_t{9}, size_t{19}}) {
    if (controls + 2 > answers.size()) continue;
    Rates rates(fmt::format("agreement, {} controls", controls)), rank(fmt::format("agreement by rank, {} controls", controls));
    for (int64_t r = 0; r < s.runs; ++r) {
      Rng rng(11, "evidence/controls", uint64_t(r));
      std::vector<size_t> order(answers.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[size_t(rng.below(i))]);
      std::vector<ControlAnswers> others;
      for (size_t c = 0; c < controls; ++c) others.push_back({std::to_string(c), answers[order[c + 2]]});
      const EvidenceTest test = agreement_test(answers[order[0]], answers[order[1]], others);
      rates.add(test.log_p);
      const double p = test.details["rank_p"].get<double>(), next = p - 1.0 / double(controls + 1);
      rank.add(std::log(p), next > 1e-9 ? std::log(next) : -INFINITY);
    }
    rates.print();
    rank.print();
  }
}

void add_radioactivity(Rates& rates, const RadioactivityCount& count, const WatermarkKey& key) {
  const EvidenceTest test = count.test("");
  if (!test.ran()) return;
  rates.add(test.log_p, log_binomial_at_least(test.details["green"].get<int64_t>() + 1, count.scored(), key.green_fraction()));
}

void radioactivity_runs(const Setting& s, const std::vector<std::unique_ptr<Decoder>>& models, const Corpus& corpus) {
  const int64_t length = corpus.window_length(), windows = std::min<int64_t>(corpus.windows(Split::held_out), 64);
  std::vector<int64_t> all;
  for (int64_t w = 0; w < windows; ++w) all.push_back(w);
  const at::Tensor text = read_windows(corpus, Split::held_out, all).narrow(1, 0, length).contiguous();
  std::vector<at::Tensor> said;
  for (const auto& model : models) said.push_back(predict_tokens(*model, text).contiguous());
  const auto draw_key = [&](int64_t r, int64_t context) { return WatermarkKey(key_of(1'000'000 + r).bytes, 0.25, context); };
  for (const int64_t context : {int64_t{1}, int64_t{2}}) {
    Rates rates(fmt::format("radioactivity, other text, context {}", context));
    for (int64_t r = 0; r < s.runs; ++r) {
      const WatermarkKey key = draw_key(r, context);
      RadioactivityCount count(key);
      const int64_t* best = said[size_t(r) % said.size()].const_data_ptr<int64_t>();
      for (int64_t w = 0; w < windows; ++w) {
        std::vector<int32_t> ids;
        for (int64_t i = 0; i < length; ++i) {
          ids.push_back(int32_t(text.const_data_ptr<int64_t>()[w * length + i]));
          count.add(ids, int32_t(best[w * length + i]), -1);
        }
      }
      add_radioactivity(rates, count, key);
    }
    rates.print();
  }
  // Text sampled with the same key: the suspect sees many green tokens, and must not be reported as trained on them.
  Rates rates("radioactivity, text sampled with the key, context 1");
  for (int64_t r = 0; r < s.runs; ++r) {
    const Digest secret = key_of(1'000'000 + r);
    const fs::path key_file = s.scratch / "key.json", folder = s.scratch / "sampled";
    write_file_atomically(
        key_file,
        Json{{"format", "overproof-watermark-1"}, {"secret", secret.hex()}, {"green_fraction", 0.25}, {"context", 1}}.dump());
    fs::permissions(key_file, fs::perms::owner_read | fs::perms::owner_write);
    fs::remove_all(folder);
    fs::create_directories(folder);
    SampleConfig config;
    config.count = 1;
    config.max_tokens = 96;
    config.seed = r;
    config.watermark_strength = 4;
    Outputs outputs(folder, s.scratch / fmt::format("sampled-{}", r));
    run_sample(config, Inputs({{"teacher", {s.teacher, {}}}, {"watermark-key", {key_file, {}}}}), outputs);
    const WatermarkKey key = WatermarkKey::read(key_file);
    RadioactivityCount count(key);
    for (const SampledTokens& document : read_sampled_tokens(folder, models[0]->config().vocab_size)) {
      count.skip(document.before);
      const std::vector<int64_t> wide(document.tokens.begin(), document.tokens.end());
      const at::Tensor best =
          predict_tokens(*models[size_t(r) % models.size()], at::tensor(wide, at::kLong).unsqueeze(0)).contiguous();
      for (size_t i = 0; i < wide.size(); ++i)
        count.add(std::span(document.tokens).first(i + 1), int32_t(best.const_data_ptr<int64_t>()[i]), -1);
    }
    add_radioactivity(rates, count, key);
  }
  rates.print();
}

Setting parse(int argc, char** argv) {
  Setting s;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--models") s.models = value;
    else if (name == "--teacher") s.teacher = value;
    else if (name == "--corpus") s.corpus = value;
    else if (name == "--scratch") s.scratch = value;
    else if (name == "--runs") s.runs = std::stoll(value);
    else throw UsageError("unknown option " + name);
  }
  if (s.models.empty() || s.teacher.empty() || s.corpus.empty() || s.scratch.empty() || s.runs < 1)
    throw UsageError("bench_evidence --models FOLDER --teacher MODEL --corpus CORPUS --scratch FOLDER [--runs 1000]");
  return s;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Setting s = parse(argc, argv);
    set_progress_mode(ProgressMode::off);
    set_thread_count(1);
    prepare_torch();
    at::NoGradGuard no_grad;
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(s.models)) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    std::vector<std::unique_ptr<Decoder>> models;
    for (const fs::path& path : paths) models.push_back(std::make_unique<Decoder>(open_checkpoint(path)));
    if (models.size() < 3) throw UsageError("there must be at least three models");
    const Corpus corpus(s.corpus);
    const Decoder teacher(open_checkpoint(s.teacher));
    order_runs(s, models, teacher, corpus);
    agreement_runs(s, models, corpus);
    radioactivity_runs(s, models, corpus);
    weight_runs(s, paths);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_evidence: %s\n", e.what());
    return 1;
  }
  return 0;
}
