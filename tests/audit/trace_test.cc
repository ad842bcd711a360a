#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "audit/trace.h"
#include "audit/verify.h"
#include "core/error.h"
#include "data/commitment.h"
#include "data/index_stage.h"
#include "tests/audit/synthetic_run.h"
#include "tests/support.h"

using namespace overproof;
using Catch::Contains;

namespace {

constexpr int64_t kLength = SyntheticRun::kWindowLength;
const std::vector<int64_t> kTokens = {5, 20, 1,  9, 33, 8, 17, 40,
                                      3, 11, 25, 7, 2,  2};  // documents of the training stream; no window reaches the last two

std::string text_of(size_t i) { return "text number " + std::to_string(i); }

void fill_corpus(const fs::path& folder) {
  std::string table;
  int64_t first = 0;
  const auto add = [&](const std::string& name, const std::string& text, const char* split, int64_t at, int64_t tokens) {
    table +=
        Json{{"digest", sha256(text).hex()}, {"name", name},   {"source", "pack"},  {"license", "MIT"}, {"license_rule", "test"},
             {"bytes", text.size()},         {"split", split}, {"first_token", at}, {"tokens", tokens}}
            .dump() +
        "\n";
  };
  for (size_t i = 0; i < kTokens.size(); ++i) {
    add("pack/" + std::to_string(i), text_of(i), "train", first, kTokens[i]);
    first += kTokens[i];
  }
  add("pack/kept", "kept back", "held_out", 0, 12);
  fs::create_directories(folder);
  write_text(folder / "documents.jsonl", table);
  std::string texts;
  for (size_t i = 0; i < kTokens.size(); ++i)
    texts += Json{{"name", "pack/" + std::to_string(i)}, {"text", text_of(i)}}.dump() + "\n";
  texts += Json{{"name", "pack/kept"}, {"text", "kept back"}}.dump() + "\n";
  write_text(folder / "texts/pack.jsonl", texts);
  OutputFolder out(folder);
  const std::vector<uint16_t> ids(size_t(first) + 12, 1);
  SafetensorsWriter writer(out, "tokens.safetensors", {{"train", DType::u16, {first}}, {"held_out", DType::u16, {12}}},
                           {{"vocab_size", "100"},
                            {"tokenizer_probe", sha256("probe").hex()},
                            {"separator", "0"},
                            {"window_length", std::to_string(kLength)}});
  writer.append(ids.data(), ids.size() * 2);
  writer.close();
}

/// The same with what the corpus stage writes today: the index leads to single lines of the table.
void fill_indexed_corpus(const fs::path& folder) {
  fill_corpus(folder);
  const std::string table = read_file(folder / "documents.jsonl");
  CommitmentWriter commitment(std::nullopt);
  int64_t documents = 0;
  for (size_t at = 0, end; at < table.size(); at = end + 1, ++documents) {
    end = table.find('\n', at);
    const Document d = parse_document(std::string_view(table).substr(at, end - at), "table", int64_t(at));
    commitment.add(d.digest, d.split, d.tokens, int64_t(at));
  }
  REQUIRE(documents == int64_t(kTokens.size()) + 1);
  OutputFolder out(folder);
  commitment.finish(out, int64_t(table.size()));
}

int64_t all_tokens() { return std::accumulate(kTokens.begin(), kTokens.end(), int64_t{0}); }
int64_t all_windows() { return (all_tokens() - 1) / kLength; }

/// Of the index alone: the tokens of this corpus are those of no text.
std::string index_failures(const SyntheticRun& run) {
  std::string all;
  for (const Finding& f : verify_run(run.path(), {}).findings)
    if (f.severity == Severity::failure && f.artifact == "index") all += f.file + ": " + f.what + "\n";
  return all;
}

Trace trace(const SyntheticRun& run, const std::string& document) { return trace_document(run.path(), {document}); }

}  // namespace

TEST_CASE("a trace finds what walking forward through the training finds") {
  const SyntheticRun run(GENERATE(false, true) ? fill_indexed_corpus : fill_corpus);
  const TrainingOrder order(order_key(run.root("corpus"), SyntheticRun::kSeed), all_windows(), SyntheticRun::kTaught);
  int64_t first = 0, used = 0, unused = 0;
  for (size_t i = 0; i < kTokens.size(); ++i) {
    const int64_t last = first + kTokens[i] - 1;
    // Forward: every position of the training, every row of its window.
    std::set<std::tuple<int64_t, int64_t, int64_t>> expected_uses, found_uses;  // window, step, place
    std::set<int64_t> expected_rows, found_rows;
    for (int64_t p = 0; p < SyntheticRun::kSteps * SyntheticRun::kBatch; ++p) {
      const int64_t window = order.window_of_block(order.block_at(p));
      for (int64_t j = 0; j < kLength; ++j)
        for (const int64_t token : {window * kLength + j, window * kLength + j + 1})
          if (token >= first && token <= last) expected_uses.insert({window, p / SyntheticRun::kBatch, p % SyntheticRun::kBatch});
    }
    for (int64_t block = 0; block < SyntheticRun::kTaught; ++block)
      for (int64_t j = 0; j < kLength; ++j)
        for (const int64_t token : {order.window_of_block(block) * kLength + j, order.window_of_block(block) * kLength + j + 1})
          if (token >= first && token <= last) expected_rows.insert(block * kLength + j);

    const Trace found = trace(run, "pack/" + std::to_string(i));
    for (const TracedUse& use : found.uses)
      if (use.artifact == "student") found_uses.insert({use.window, use.step, use.place});
    for (const TracedRows& rows : found.rows)
      for (int64_t row = rows.first_row; row <= rows.last_row; ++row) found_rows.insert(row);
    INFO("document " << i);
    CHECK(found_uses == expected_uses);
    CHECK(found_rows == expected_rows);
    const bool any = !found.uses.empty() || !found.rows.empty();
    CHECK(found.status == (any ? TraceStatus::used : TraceStatus::never_reached));
    (expected_uses.empty() ? unused : used) += 1;
    first = last + 1;
  }
  CHECK(used > 0);
  CHECK(unused > 0);
}

TEST_CASE("the windows that observing and calibrating drew are found") {
  const SyntheticRun run(fill_corpus);
  std::set<int64_t> observed, calibrated;
  const Digest root = run.root("corpus");
  // The same draws as student/observe_stage.cc and distill/calibrate_stage.cc make: their tweaks are "observed", "calibrat".
  const Permutation observe(order_key(root, 1), 0x6f62736572766564, all_windows());
  const Permutation calibrate(order_key(root, 2), 0x63616c6962726174, all_windows());
  for (int64_t p = 0; p < 4; ++p) observed.insert(observe.forward(p));
  for (int64_t p = 0; p < 3 * 2; ++p) calibrated.insert(calibrate.forward(p));

  std::set<int64_t> found_observed, found_calibrated;
  for (size_t i = 0; i < kTokens.size(); ++i)
    for (const TracedUse& use : trace(run, "pack/" + std::to_string(i)).uses) {
      if (use.artifact == "statistics") found_observed.insert(use.window);
      if (use.artifact == "calibrated") found_calibrated.insert(use.window);
    }
  CHECK(found_observed == observed);
  CHECK(found_calibrated == calibrated);
}

TEST_CASE("a document is found by name, by digest and by its text") {
  const SyntheticRun run(GENERATE(false, true) ? fill_indexed_corpus : fill_corpus);
  TempFolder elsewhere;
  write_text(elsewhere / "copy.txt", text_of(4));
  const std::string digest = sha256(text_of(4)).hex();
  for (const std::string& way : {std::string("pack/4"), digest, "sha256:" + digest, (elsewhere / "copy.txt").string()}) {
    const Trace found = trace(run, way);
    REQUIRE(found.document);
    CHECK(found.document->name == "pack/4");
  }
}

TEST_CASE("the three ways of not being used are told apart") {
  const SyntheticRun run(GENERATE(false, true) ? fill_indexed_corpus : fill_corpus);
  const auto said = [&](const std::string& document) {
    const Answer answer = audit_trace({document}, run.path());
    CHECK(answer.exit_code == 0);
    return answer.text;
  };
  CHECK_THAT(said("pack/none"), Contains("not in the corpus"));
  CHECK_THAT(said(sha256("never seen").hex()), Contains("not in the corpus"));
  CHECK_THAT(said("pack/kept"), Contains("in the corpus, held out"));
  std::set<std::string> answers;
  for (size_t i = 0; i < kTokens.size(); ++i) {
    const std::string text = said("pack/" + std::to_string(i));
    answers.insert(text.substr(text.find(": ") + 2, text.find('\n') - text.find(": ") - 2));
  }
  CHECK(answers == std::set<std::string>{"in the corpus, used", "in the corpus, never reached"});
}

TEST_CASE("the JSON has the content of the structure") {
  const SyntheticRun run(fill_corpus);
  const Json json = audit_trace({"pack/4"}, run.path()).json;
  const Trace found = trace(run, "pack/4");
  CHECK(json["document"]["tokens"] == 33);
  CHECK(json["windows"].size() == found.in_windows.size());
  CHECK(json["teacher_rows"].size() == found.rows.size());
  CHECK(json["uses"].size() == found.uses.size());
}

TEST_CASE("a trace names the experts of its source, and the models made from it") {
  const SyntheticRun run(fill_corpus);
  for (size_t i = 0; i < kTokens.size(); ++i) {
    const Trace found = trace(run, "pack/" + std::to_string(i));
    std::set<std::string> users, reaches, trained, counted;
    for (const TracedUse& use : found.uses) users.insert(use.artifact);
    for (const TracedRows& rows : found.rows) users.insert(rows.artifact);
    for (const TracedDescendant& d : found.reaches) {
      reaches.insert(d.artifact);
      if (d.trained) trained.insert(d.artifact);
    }
    for (const TracedExperts& x : found.experts) {
      counted.insert(x.artifact);
      REQUIRE(x.layers.size() == 3);
      CHECK(x.layers[2][0].expert == 3);
      CHECK(x.layers[2][0].share == Approx(4.0 / 10));
      CHECK(x.layers[2][0].mass == Approx(12.0 / 22));
      CHECK(x.source_tokens == (x.artifact == "student" ? 60 : 120));
    }
    // By hand, from the run's plan.
    std::set<std::string> expected, expected_trained;
    if (users.contains("student")) expected_trained.insert({"student", "calibrated", "int8"});
    if (users.contains("calibrated")) expected_trained.insert({"calibrated", "int8"});
    expected = expected_trained;
    if (users.contains("soft-targets")) expected.insert({"student", "calibrated", "int8"});
    if (users.contains("statistics")) expected.insert({"student-init", "student", "calibrated", "int8", "static-init"});
    INFO("document " << i);
    CHECK(reaches == expected);
    CHECK(trained == expected_trained);
    CHECK(counted.contains("student") == users.contains("student"));
    CHECK(counted.contains("calibrated") == users.contains("calibrated"));
  }
}

TEST_CASE("a step names the windows and documents that a trace leads back to") {
  const SyntheticRun run(GENERATE(false, true) ? fill_indexed_corpus : fill_corpus);
  std::set<std::tuple<std::string, int64_t, int64_t, std::string>> from_steps, from_documents;  // artifact, step, place, document
  for (const std::string artifact : {"student", "calibrated", "statistics"}) {
    const int64_t steps = artifact == "student" ? SyntheticRun::kSteps : artifact == "calibrated" ? 3 : 4;
    for (int64_t step = 0; step < steps; ++step) {
      const StepTrace found = trace_step(run.path(), {.step = artifact + ":" + std::to_string(step)});
      REQUIRE(found.steps == steps);
      REQUIRE(int64_t(found.windows.size()) == (artifact == "statistics" ? 1 : 2));
      for (const StepWindow& w : found.windows) {
        int64_t tokens = 0;
        for (const StepDocument& d : w.documents) {
          from_steps.insert({artifact, step, w.place, d.name});
          REQUIRE(d.first_token <= d.last_token);
          tokens += d.last_token - d.first_token + 1;
        }
        CHECK(tokens == kLength + (artifact == "student" ? 1 : 0));
        CHECK((w.block >= 0) == (artifact == "student"));
      }
    }
  }
  for (size_t i = 0; i < kTokens.size(); ++i)
    for (const TracedUse& use : trace(run, "pack/" + std::to_string(i)).uses)
      from_documents.insert({use.artifact, use.step, use.place, "pack/" + std::to_string(i)});
  CHECK(from_steps == from_documents);

  for (const std::string wrong : {"student:10", "student:-1", "student:", "student", ":3", "int8:0", "studnet:0", "student:0x"})
    CHECK_THROWS_AS(trace_step(run.path(), {.step = wrong}), UsageError);
  const Json json = audit_trace({.step = "student:3"}, run.path()).json;
  CHECK(json["windows"].size() == 2);
  CHECK(json["windows"][1]["documents"][0].contains("license"));
}

TEST_CASE("an export names its ancestors and all licences") {
  const SyntheticRun run(GENERATE(false, true) ? fill_indexed_corpus : fill_corpus);
  const AncestryTrace found = trace_ancestry(run.path(), {.artifact = "int8", .reached = true});
  std::vector<std::string> names;
  for (const Ancestor& a : found.ancestors) names.push_back(a.artifact);
  CHECK(std::set<std::string>(names.begin(), names.end()) == std::set<std::string>{"teacher", "corpus", "statistics",
                                                                                   "soft-targets", "student-init", "student",
                                                                                   "calibrated", "int8"});
  CHECK(names.front() == "teacher");
  CHECK(names.back() == "int8");
  CHECK(found.complete);
  REQUIRE(found.models.size() == 1);
  CHECK(found.models[0] == std::pair<std::string, std::string>{"teacher", "Apache-2.0"});
  std::map<std::string, int64_t> documents, reached;
  for (const TracedLicense& l : found.licenses) documents[l.license] = l.documents, reached[l.license] = l.reached;
  CHECK(documents == std::map<std::string, int64_t>{{"MIT", int64_t(kTokens.size()) + 1}});
  int64_t used = 0;  // by training: observing and teaching change no weight
  for (size_t i = 0; i < kTokens.size(); ++i) {
    const Trace trace_of = trace(run, "pack/" + std::to_string(i));
    used += std::any_of(trace_of.uses.begin(), trace_of.uses.end(), [](const TracedUse& u) { return u.kind != "observed"; });
  }
  CHECK(reached["MIT"] == used);
  CHECK(used > 0);
  CHECK(used < int64_t(kTokens.size()));
  CHECK_THROWS_WITH(trace_ancestry(run.path(), {.artifact = "int9"}), Contains("did you mean 'int8'"));

  fs::remove_all(run.path() / "teacher");
  const AncestryTrace poorer = trace_ancestry(run.path(), {.artifact = "int8"});
  CHECK_FALSE(poorer.complete);
  CHECK_THAT(audit_trace({.artifact = "int8"}, run.path()).text, Contains("teacher (not here)"));
}

TEST_CASE("a passage leads to the documents that hold it") {
  const SyntheticRun run(fill_corpus);
  TraceConfig config;
  config.span = "They said: text number 12, then kept back. And text number 1";
  config.min_words = config.min_bytes = 2;
  CHECK_THROWS_WITH(trace_span(run.path(), config), Contains("overproof index"));
  fs::create_directories(run.path() / "index");
  Outputs outputs(run.path() / "index", run.path() / ".index.scratch");
  run_index({}, Inputs({{"corpus", {run.path() / "corpus", run.root("corpus")}}}), outputs);
  run.seal("index", "index", "indexed", {{"corpus", "corpus"}});
  CHECK(index_failures(run).empty());
  const SpanTrace found = trace_span(run.path(), config);
  REQUIRE(found.spans.size() == 3);
  CHECK(found.spans[0].text == "text number 12");
  REQUIRE(found.spans[0].documents.size() == 1);
  CHECK(found.spans[0].documents[0].name == "pack/12");
  CHECK(found.spans[0].documents[0].license == "MIT");
  CHECK(found.spans[0].documents[0].digest == sha256(text_of(12)));
  CHECK(found.spans[1].documents[0].split == "held_out");
  CHECK(found.spans[2].occurrences == 5);  // number 1, 10, 11, 12, 13
  CHECK(found.spans[2].documents.size() == 5);
  config.verify = VerifyFiles::size;
  write_text(run.path() / "query.txt", config.span);
  const Json json =
      audit_trace({.span = "@" + (run.path() / "query.txt").string(), .min_words = 2, .min_bytes = 2, .documents = 1}, run.path())
          .json;
  CHECK(json["spans"][2]["more_documents"] == true);
  CHECK(json["spans"][2]["documents"].size() == 1);
  CHECK_THAT(audit_trace({.span = "nothing of this"}, run.path()).text, Contains("no passage"));

  // With sizes alone checked, a text that was changed in the index is caught where it is used.
  std::string shard = read_file(run.path() / "index/suffixes-00000.safetensors");
  shard[shard.find("text number 12") + 13] = '3';
  write_text(run.path() / "index/suffixes-00000.safetensors", shard);
  config.span = "text number 13 alone";
  config.min_words = 3;
  CHECK_THROWS_AS(trace_span(run.path(), config), ProvenanceError);

  // An index made of another corpus, signed as if it were of this one.
  fs::remove_all(run.path() / "index");
  fs::create_directories(run.path() / "index");
  Outputs other(run.path() / "index", run.path() / ".index.scratch");
  run_index({}, Inputs({{"corpus", {run.path() / "corpus", sha256("another")}}}), other);
  run.seal("index", "index", "indexed", {{"corpus", "corpus"}});
  CHECK_THROWS_WITH(trace_span(run.path(), config), Contains("another corpus"));
  const Answer verified = audit_verify({}, run.path());
  CHECK(verified.exit_code == 4);
  CHECK_THAT(verified.text, Contains("documents.safetensors"));
}

TEST_CASE("one question is asked at a time") {
  const SyntheticRun run(fill_corpus);
  CHECK_THROWS_AS(audit_trace({}, run.path()), UsageError);
  CHECK_THROWS_AS(audit_trace({.document = "pack/1", .step = "student:1"}, run.path()), UsageError);
}

TEST_CASE("answers are about what the trusted signer signed") {
  const SyntheticRun run(fill_corpus);
  const Key stranger = Key::generate();
  write_text(run.path() / "key.pub", run.key.public_key().pem());
  write_text(run.path() / "stranger.pub", stranger.public_key().pem());
  const auto asked = [&](const char* key) {
    TraceConfig config{.document = "pack/4"};
    if (*key) config.trust.public_key = run.path() / key;
    return audit_trace(config, run.path()).json;
  };
  Json by_key = asked("key.pub"), by_statement = asked("");
  CHECK(by_key["signers"] == Json::array({run.key.public_key().hint()}));
  CHECK(by_key["signer_trusted"] == true);
  CHECK(by_statement["signer_trusted"] == false);
  for (Json* answer : {&by_key, &by_statement}) answer->erase("signer_trusted");
  CHECK(by_key == by_statement);
  CHECK_THROWS_AS(asked("stranger.pub"), ProvenanceError);
  // A leaf signed anew by another: whose answer would it be?
  const Lineage lineage = *open_artifact(run.path() / "int8", VerifyFiles::no, nullptr);
  seal_artifact(run.path() / "int8", lineage.files, lineage, stranger);
  CHECK_THROWS_WITH(asked(""), Contains("signed by 2 keys") && Contains("--public-key"));
}

TEST_CASE("no answer is given about a run that does not hold") {
  const SyntheticRun run(fill_corpus);
  write_text(run.path() / "corpus/texts/one.txt", "Some text");
  CHECK_THROWS_AS(trace(run, "pack/4"), ProvenanceError);
}
