#include <catch2/catch.hpp>
#include <numeric>
#include <set>
#include <sstream>

#include "audit/trace.h"
#include "core/error.h"
#include "tests/audit/synthetic_run.h"

using namespace overproof;
using Catch::Contains;

namespace {

constexpr int64_t kLength = SyntheticRun::kWindowLength;
const std::vector<int64_t> kTokens = {5, 20, 1, 9, 33, 8, 17, 40, 3, 11, 25, 7, 2, 2};  // documents of the training stream; no window reaches the last two

std::string text_of(size_t i) { return "text number " + std::to_string(i); }

void fill_corpus(const fs::path& folder) {
  std::string table;
  int64_t first = 0;
  const auto add = [&](const std::string& name, const std::string& text, const char* split, int64_t at, int64_t tokens) {
    table += Json{{"digest", sha256(text).hex()}, {"name", name}, {"source", "pack"}, {"license", "MIT"}, {"license_rule", "test"},
                  {"bytes", text.size()}, {"split", split}, {"first_token", at}, {"tokens", tokens}}.dump() + "\n";
  };
  for (size_t i = 0; i < kTokens.size(); ++i) {
    add("pack/" + std::to_string(i), text_of(i), "train", first, kTokens[i]);
    first += kTokens[i];
  }
  add("pack/kept", "kept back", "held_out", 0, 12);
  fs::create_directories(folder);
  write_text(folder / "documents.jsonl", table);
  OutputFolder out(folder);
  const std::vector<uint16_t> ids(size_t(first) + 12, 1);
  SafetensorsWriter writer(out, "tokens.safetensors", {{"train", DType::u16, {first}}, {"held_out", DType::u16, {12}}},
                           {{"vocab_size", "100"}, {"tokenizer_probe", sha256("probe").hex()}, {"separator", "0"},
                            {"window_length", std::to_string(kLength)}});
  writer.append(ids.data(), ids.size() * 2);
  writer.close();
}

int64_t all_tokens() { return std::accumulate(kTokens.begin(), kTokens.end(), int64_t{0}); }
int64_t all_windows() { return (all_tokens() - 1) / kLength; }

Trace trace(const SyntheticRun& run, const std::string& document) { return trace_document(run.path(), {document}); }

}  // namespace

TEST_CASE("a trace says what walking forward through the training finds") {
  const SyntheticRun run(fill_corpus);
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
  const SyntheticRun run(fill_corpus);
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
  const SyntheticRun run(fill_corpus);
  const auto said = [&](const std::string& document) {
    std::ostringstream text;
    CHECK(audit_trace({document}, run.path(), false, text) == 0);
    return text.str();
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

TEST_CASE("the JSON says the same as the structure") {
  const SyntheticRun run(fill_corpus);
  std::ostringstream out;
  audit_trace({"pack/4"}, run.path(), true, out);
  const Json json = Json::parse(out.str());
  const Trace found = trace(run, "pack/4");
  CHECK(json["document"]["tokens"] == 33);
  CHECK(json["windows"].size() == found.in_windows.size());
  CHECK(json["teacher_rows"].size() == found.rows.size());
  CHECK(json["uses"].size() == found.uses.size());
}

TEST_CASE("no answer is given about a run that does not hold") {
  const SyntheticRun run(fill_corpus);
  write_text(run.path() / "corpus/texts/one.txt", "Some text");
  CHECK_THROWS_AS(trace(run, "pack/4"), ProvenanceError);
  CHECK_THROWS_AS(trace(run, ""), UsageError);
}
