#include "evaluate/evaluate_stage.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "model/decoder.h"
#include "quantize/quantize_stage.h"
#include "student/tiny_teacher_stage.h"
#include "tests/support.h"

using namespace overproof;

namespace {

constexpr int64_t kLength = 32, kHeldOut = 32 * 13 + 5;

void make_model(const fs::path& folder, int64_t seed) {
  fs::create_directories(folder);
  Outputs outputs(folder, folder / "scratch");
  run_tiny_teacher({.layers = 2, .hidden_size = 32, .intermediate_size = 64, .seed = seed}, Inputs({}), outputs);
}

/// A corpus of random ids: one document a split.
void make_corpus(const fs::path& folder, const Digest& probe, int64_t vocab, int64_t held_out = kHeldOut) {
  fs::create_directories(folder);
  OutputFolder out(folder);
  std::string table;
  const std::vector<std::pair<std::string, int64_t>> splits = {{"train", 100}, {"held_out", held_out}};
  for (const auto& [split, tokens] : splits)
    table += Json{{"digest", sha256(split).hex()},
                  {"name", split},
                  {"source", "test"},
                  {"license", "CC0-1.0"},
                  {"license_rule", "*"},
                  {"bytes", tokens},
                  {"split", split},
                  {"first_token", 0},
                  {"tokens", tokens}}
                 .dump() +
             "\n";
  out.write_file("documents.jsonl", table);
  SafetensorsWriter writer(out, "tokens.safetensors", {{"train", DType::u16, {100}}, {"held_out", DType::u16, {held_out}}},
                           {{"vocab_size", std::to_string(vocab)},
                            {"window_length", std::to_string(kLength)},
                            {"tokenizer_probe", probe.hex()},
                            {"separator", "256"}});
  Rng rng(9, "test/tokens");
  for (const auto& [split, tokens] : splits)
    for (int64_t i = 0; i < tokens; ++i) {
      const uint16_t id = uint16_t(rng.below(uint64_t(vocab)));
      writer.append(&id, sizeof id);
    }
  writer.close();
}

struct Fixture {
  TempFolder folder;
  std::map<std::string, InputArtifact> slots;
  Fixture() {
    make_model(folder.path() / "teacher", 0);
    make_model(folder.path() / "stranger", 1);
    fs::create_directories(folder.path() / "int8");
    Outputs outputs(folder.path() / "int8", folder.path() / "scratch");
    run_quantize({}, Inputs({{"model", {folder.path() / "teacher", {}}}}), outputs);
    make_corpus(folder.path() / "corpus", open_tokenizer(folder.path() / "teacher")->probe(), 257);
    for (const char* name : {"teacher", "corpus", "int8", "stranger"}) slots[name] = {folder.path() / name, {}};
  }
  StageReport evaluate(const EvaluateConfig& config) {
    fs::create_directories(folder.path() / "out");
    Outputs outputs(folder.path() / "out", folder.path() / "scratch");
    return run_evaluate(config, Inputs(slots), outputs);
  }
};

struct Expected {
  double perplexity, kl_mean, kl_p99, top1, calibration_error;
};

/// The definition, window by window in double, nothing shared with the stage.
Expected by_definition(const fs::path& root, const std::string& name, const std::vector<int64_t>& windows) {
  const Decoder teacher(open_checkpoint(root / "teacher")), model(open_checkpoint(root / name));
  const Corpus corpus(root / "corpus");
  std::vector<double> kl;
  double nll = 0, agree = 0;
  std::vector<double> confidence(15), right(15);
  for (const int64_t window : windows) {
    std::vector<int64_t> ids(kLength + 1);
    corpus.read_window(Split::held_out, window, ids);
    const at::Tensor tokens = at::tensor(at::ArrayRef<int64_t>(ids)).narrow(0, 0, kLength).unsqueeze(0);
    const at::Tensor p = at::softmax(teacher.logits(teacher.hidden(tokens)).to(at::kDouble), -1);
    const at::Tensor q = at::softmax(model.logits(model.hidden(tokens)).to(at::kDouble), -1);
    for (int64_t i = 0; i < kLength; ++i) {
      double sum = 0;
      for (int64_t v = 0; v < p.size(1); ++v)
        sum += p[i][v].item<double>() * std::log(p[i][v].item<double>() / q[i][v].item<double>());
      kl.push_back(sum);
      nll -= std::log(q[i][ids[size_t(i) + 1]].item<double>());
      const double most = q[i].max().item<double>();
      int bin = 0;
      while (bin < 14 && most > (bin + 1) / 15.0) ++bin;
      confidence[size_t(bin)] += most;
      right[size_t(bin)] += q[i].argmax().item<int64_t>() == ids[size_t(i) + 1];
      agree += p[i].argmax().item<int64_t>() == q[i].argmax().item<int64_t>();
    }
  }
  std::ranges::sort(kl);
  const double n = double(kl.size());
  double mean = 0;
  for (const double x : kl) mean += x / n;
  double error = 0;
  for (size_t bin = 0; bin < 15; ++bin) error += std::abs(confidence[bin] - right[bin]) / n;
  return {std::exp(nll / n), mean, kl[size_t(std::ceil(0.99 * n)) - 1], agree / n, error};
}

}  // namespace

TEST_CASE_METHOD(Fixture, "every figure agrees with its definition") {
  const StageReport report = evaluate({.tokens = 100, .batch = 3});
  const Json evaluation = read_json(folder.path() / "out" / "evaluation.json");
  CHECK(evaluation["tokens"] == 128);  // whole windows
  Json metrics = report.metrics();
  CHECK(metrics["compute"] == "f32");  // a small model
  metrics.erase("compute");
  CHECK(evaluation == metrics);
  REQUIRE(evaluation["models"].size() == 3);
  const Json &teacher = evaluation["models"][0], &int8 = evaluation["models"][1], &stranger = evaluation["models"][2];
  CHECK(teacher["name"] == "teacher");
  CHECK(int8["name"] == "int8");  // nearer to the teacher than the stranger
  CHECK(stranger["name"] == "stranger");
  CHECK(teacher["kl_mean"] == 0.0);
  CHECK(teacher["top1_agreement"] == 1.0);
  CHECK(teacher["ffn_activation"] == 1.0);
  CHECK(int8["parameters"] == teacher["parameters"]);
  CHECK(int8["bytes"] == fs::file_size(folder.path() / "int8" / "model.safetensors"));
  for (const char* name : {"int8", "stranger"}) {
    const Json& row = std::string(name) == "int8" ? int8 : stranger;
    const Expected expected = by_definition(folder.path(), name, {1, 4, 8, 11});  // the middles of four quarters of 13
    CAPTURE(name);
    CHECK(row["perplexity"].get<double>() == Approx(expected.perplexity).epsilon(1e-4));
    CHECK(row["kl_mean"].get<double>() == Approx(expected.kl_mean).epsilon(1e-3).margin(1e-7));
    CHECK(row["kl_p99"].get<double>() == Approx(expected.kl_p99).epsilon(1e-3).margin(1e-6));
    CHECK(row["top1_agreement"].get<double>() == Approx(expected.top1).margin(0.5 / 128));
    CHECK(row["kl_mean"].get<double>() > 0.0);
    CHECK(row["calibration_error"].get<double>() == Approx(expected.calibration_error).epsilon(1e-4));
    CHECK_FALSE(row.contains("tasks"));
  }
  CHECK(evaluation.dump().find("tokens_per_second") == std::string::npos);
  CHECK(evaluation["prompts"] == kPrompts);
  CHECK(evaluation["repetition_penalty"] == 1.1);
  CHECK(teacher["answer_agreement"].get<double>() > 0.5);  // a random model of bytes often wants one that breaks UTF-8, which is not drawn
  CHECK(stranger["answer_agreement"].get<double>() < teacher["answer_agreement"].get<double>());
  for (const Json& model : evaluation["models"]) {
    CHECK(model["loops"].get<double>() >= 0.0);
    CHECK(model["loops"].get<double>() <= 1.0);
    CHECK(model["loops_penalised"].get<double>() <= model["loops"].get<double>());
    CHECK(model["bytes_per_token"].get<int64_t>() > 0);
    CHECK(model["bytes_per_token"].get<int64_t>() <= model["bytes"].get<int64_t>());
    CHECK_FALSE(model.contains("texts"));  // there is one source
  }
  REQUIRE(report.summary.size() == 14);
  CHECK_THAT(report.summary[8], Catch::Contains("decode/s"));
  CHECK_THAT(report.summary[8], Catch::Contains("read/token"));
  CHECK_THAT(report.summary[9], Catch::Contains("MB  f32"));  // weights in memory are as the checkpoints have them
  CHECK_THAT(report.summary[10], Catch::Contains("MB  int8"));
  CHECK(report.summary[5].starts_with("of bf16: size over that of the teacher in bf16"));
  CHECK(report.summary[6].starts_with("warning: stranger is larger than the teacher in bf16"));  // f32
}

TEST_CASE_METHOD(Fixture, "questions are scored for every model, each task for itself, and each score is in a file") {
  const fs::path file = folder.path() / "questions.jsonl";
  write_file_atomically(file, R"({"context": "The sky is", "choices": ["blue", "a long answer"], "answer": 0, "task": "sky"}
{"context": "", "choices": ["One", "Two", "Three"], "answer": "Two", "delimiter": ""}
{"context": "Grass is", "choices": ["green", "red"], "answer": 0, "task": "sky"}
)");
  slots["questions"] = {file, {}};
  const StageReport report = evaluate({.tokens = 64, .prompts = 0});
  const Json evaluation = read_json(folder.path() / "out" / "evaluation.json");
  REQUIRE(evaluation["models"].size() == 3);  // the questions are no model
  for (const Json& model : evaluation["models"]) {
    REQUIRE(model["tasks"].size() == 2);
    CHECK(model["tasks"][0]["name"] == "sky");
    CHECK(model["tasks"][0]["questions"] == 2);
    CHECK(model["tasks"][0].contains("acc_stderr"));
    CHECK(model["tasks"][1]["name"] == "questions");
    CHECK_FALSE(model["tasks"][1].contains("acc_stderr"));
  }
  const std::string lines = read_file(folder.path() / "out" / "scores.jsonl");
  CHECK(std::ranges::count(lines, '\n') == 9);
  CHECK(lines.starts_with(R"({"answer":0,"choice")"));
  CHECK(std::ranges::any_of(report.summary, [](const std::string& line) { return line.find("multiple choice") != std::string::npos; }));
  const Json first = Json::parse(lines.substr(0, lines.find('\n')));
  const Decoder teacher(open_checkpoint(folder.path() / "teacher"));
  const std::string text = "The sky is blue";  // every byte is a token
  const at::Tensor ids = at::tensor(std::vector<int64_t>(text.begin(), text.end()), at::kLong).unsqueeze(0);
  const at::Tensor logs = at::log_softmax(teacher.logits(teacher.hidden(ids)), -1);
  double sum = 0;
  for (size_t i = 10; i < text.size(); ++i) sum += logs[int64_t(i) - 1][text[i]].item<double>();
  CHECK(first["log_likelihoods"][0].get<double>() == Approx(sum).epsilon(1e-5));
}

TEST_CASE_METHOD(Fixture, "each kind of held-out text has figures of its own, which together are those of all") {
  // The held-out stream as documents of two sources, in pieces that no window's border meets.
  const fs::path table = folder.path() / "corpus/documents.jsonl";
  const auto cut = [&](const std::vector<std::pair<std::string, std::string>>& pieces) {
    std::string lines = read_file(table);
    lines.resize(lines.find('\n') + 1);
    const int64_t length = kHeldOut / int64_t(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      const int64_t first = int64_t(i) * length, tokens = i + 1 == pieces.size() ? kHeldOut - first : length;
      lines += Json{{"digest", sha256(std::to_string(i)).hex()}, {"name", std::to_string(i)}, {"source", pieces[i].first},
                    {"license", "CC0-1.0"}, {"license_rule", pieces[i].second}, {"bytes", tokens}, {"split", "held_out"},
                    {"first_token", first}, {"tokens", tokens}}.dump() + "\n";
    }
    write_file_atomically(table, lines);
  };
  cut({{"a", "given"}, {"b", "given"}, {"a", "given"}});
  const Json evaluation = evaluate({.tokens = 1000000, .prompts = 0}).metrics();
  CHECK_FALSE(evaluation.contains("prompts"));
  for (const Json& model : evaluation["models"]) {
    CHECK_FALSE(model.contains("loops"));
    REQUIRE(model["texts"].size() == 2);
    CHECK(model["texts"][0]["name"] == "a");
    CHECK(model["texts"][1]["name"] == "b");
    int64_t tokens = 0;
    double kl = 0, nll = 0, agree = 0;
    for (const Json& text : model["texts"]) {
      const auto n = text["tokens"].get<int64_t>();
      tokens += n;
      kl += double(n) * text["kl_mean"].get<double>();
      nll += double(n) * std::log(text["perplexity"].get<double>());
      agree += double(n) * text["top1_agreement"].get<double>();
    }
    CHECK(tokens == 13 * kLength);
    CHECK(kl / double(tokens) == Approx(model["kl_mean"].get<double>()).margin(1e-9));
    CHECK(std::exp(nll / double(tokens)) == Approx(model["perplexity"].get<double>()).epsilon(1e-6));
    CHECK(agree / double(tokens) == Approx(model["top1_agreement"].get<double>()).margin(1e-9));
  }
  // Labels of the documents in the middle: positions kHeldOut / 3 on, of which position 0 of the stream is no label.
  CHECK(evaluation["models"][0]["texts"][1]["tokens"] == kHeldOut / 3);

  // Of many sources, those that a teacher sampled stay apart.
  cut({{"a", "given"}, {"b", "path"}, {"c", "given"}, {"d", "given"}, {"teacher sha256:00", kSampledRule}, {"e", "given"}});
  const Json many = evaluate({.tokens = 1000000, .prompts = 0}).metrics();
  REQUIRE(many["models"][0]["texts"].size() == 2);
  CHECK(many["models"][0]["texts"][0]["name"] == "other");
  CHECK(many["models"][0]["texts"][1]["name"] == "teacher sha256:00");
  CHECK(many["models"][0]["texts"][1]["tokens"] == kHeldOut / 6);
}

TEST_CASE_METHOD(Fixture, "more tokens than there are means all of them, and the batch does not matter") {
  const Json whole = evaluate({.tokens = 1000000, .batch = 5}).metrics();
  CHECK(whole["tokens"] == 13 * kLength);
  const Json single = evaluate({.tokens = 1000000, .batch = 1}).metrics();
  CHECK(single["models"][2]["kl_mean"].get<double>() == Approx(whole["models"][2]["kl_mean"].get<double>()).epsilon(1e-5));
}

TEST_CASE_METHOD(Fixture, "a corpus made with another tokenizer is refused") {
  make_corpus(folder.path() / "corpus", sha256("another"), 257);
  CHECK_THROWS_AS(evaluate({}), MismatchError);
  CHECK_THROWS_WITH(evaluate({}), Catch::Contains("another tokenizer than that of teacher"));
}

TEST_CASE_METHOD(Fixture, "a corpus without a held-out window is refused") {
  slots["corpus"] = {folder.path() / "short", {}};
  make_corpus(folder.path() / "short", open_tokenizer(folder.path() / "teacher")->probe(), 257, kLength);
  CHECK_THROWS_AS(evaluate({}), MismatchError);
}

TEST_CASE_METHOD(Fixture, "a model whose logits are not finite is refused") {
  const Decoder model(open_checkpoint(folder.path() / "stranger"));
  model.weights().final_norm.fill_(3e38);
  fs::create_directories(folder.path() / "broken");
  OutputFolder broken(folder.path() / "broken");
  save_decoder(model, broken, DType::f32);
  slots["stranger"] = {folder.path() / "broken", {}};
  CHECK_THROWS_AS(evaluate({}), DivergenceError);
}

TEST_CASE_METHOD(Fixture, "evaluate runs on the thread count of the command, whatever an earlier stage has set") {
  set_thread_count(1);
  at::set_num_threads(3);
  const std::string first = evaluate({}).metrics().dump();
  CHECK(at::get_num_threads() == 1);
  CHECK(evaluate({}).metrics().dump() == first);
  set_thread_count(2);
  evaluate({});
  CHECK(at::get_num_threads() == 2);
  set_thread_count(0);
}
