#include "verify/verify_samples_stage.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "core/json.h"
#include "tests/support.h"

using namespace overproof;

namespace {

/// Samples of two tasks with three completions each, of which one had no token.
fs::path make_samples(const TempFolder& folder) {
  const fs::path samples = folder / "samples";
  write_text(samples / "tasks.jsonl", "{\"name\": \"a\", \"prompt\": \"1 + 1?\", \"answer\": \"2\"}\n{\"name\": \"b\", \"prompt\": \"2 + 2?\", \"answer\": \"4\"}\n");
  std::string records, tokens;
  int i = 0;
  for (const auto& [task, completion] : {std::pair{"a", "It is 2."}, {"a", "It is 2."}, {"a", "3"}, {"b", "it is 4, I think"}, {"b", "perhaps"}}) {
    const std::string name = "samples/" + std::to_string(i++);
    records += Json{{"name", name},
                    {"license", "L"},
                    {"source", "S"},
                    {"task", task},
                    {"messages", {{{"role", "user"}, {"content", "?"}}, {{"role", "assistant"}, {"content", completion}}}},
                    {"parents", Json::array({{{"slot", "teacher"}, {"name", "t"}, {"digest", "sha256:00"}}})}}
                   .dump() +
               "\n";
    tokens += Json{{"name", name}, {"before", Json::array()}, {"tokens", {1, 2, 3}}}.dump() + "\n";
  }
  write_text(samples / "documents.jsonl", records);
  write_text(samples / "tokens.jsonl", tokens);
  write_text(samples / "sampling.json", R"({"format": "overproof-samples-1", "documents": 5, "tasks": {"tasks": 2, "per_task": 3}})");
  return samples;
}

struct Result {
  StageReport report;
  std::vector<Json> documents, verdicts;
};

std::vector<Json> read_lines(const fs::path& file) {
  std::vector<Json> lines;
  const std::string text = read_file(file);
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    lines.push_back(parse_json(std::string_view(text).substr(at, end - at), file, int64_t(at)));
    at = end + 1;
  }
  return lines;
}

Result verify(const TempFolder& folder, const VerifySamplesConfig& config) {
  const fs::path out = folder / "out";
  fs::remove_all(out);
  Outputs outputs(out, folder / "scratch");
  Result result{run_verify_samples(config, Inputs({{"samples", {folder / "samples", {}}}}), outputs), {}, {}};
  result.documents = read_lines(out / "documents.jsonl");
  result.verdicts = read_lines(out / "verdicts.jsonl");
  return result;
}

}  // namespace

TEST_CASE("correct completions become documents with their sample as a parent, and every completion has a verdict") {
  const TempFolder folder;
  const fs::path samples = make_samples(folder);
  const Result all = verify(folder, {});
  CHECK(all.documents.size() == 3);
  REQUIRE(all.verdicts.size() == 6);
  CHECK(all.report.metrics()["pass_rate"]["correct"] == 3);
  CHECK(all.report.metrics()["pass_rate"]["wrong"] == 1);
  CHECK(all.report.metrics()["pass_rate"]["unknown"] == 2);  // "perhaps", and one without a token
  CHECK(all.report.metrics()["pass_rate"]["solved"] == 2);
  CHECK(all.report.metrics()["tokens"] == 9);
  CHECK(all.verdicts[5]["name"].is_null());
  CHECK(all.verdicts[5]["reason"] == "empty");
  CHECK(all.verdicts[2]["verdict"] == "wrong");
  CHECK(all.verdicts[2]["kept"] == false);
  const Json& first = all.documents[0];
  CHECK(first["verdict"] == "correct");
  const std::string record = read_file(samples / "documents.jsonl");
  CHECK(first["parents"].back() == Json({{"slot", "samples"}, {"name", "samples/0"}, {"digest", "sha256:" + sha256(record.substr(0, record.find('\n'))).hex()}}));
  CHECK(first["parents"][0]["slot"] == "teacher");

  CHECK(verify(folder, {.keep = KeptVerdicts::not_wrong}).documents.size() == 4);
  CHECK(verify(folder, {.most_per_task = 1}).documents.size() == 2);
  CHECK(verify(folder, {.most_per_task = 2}).report.metrics()["repeated"] == 1);
  const Result weighted = verify(folder, {.keep = KeptVerdicts::not_wrong, .weights = SampleWeights::tasks});
  REQUIRE(weighted.documents.size() == 3);  // two of "b", one of "a" that occurred twice
  CHECK_FALSE(weighted.documents[0].contains("weight"));
  CHECK(weighted.documents[1]["weight"] == 0.5);
  CHECK(weighted.documents[2]["weight"] == 0.5);
  CHECK(verify(folder, {.least_pass_rate = 0.5}).documents.size() == 2);
  CHECK(verify(folder, {.most_pass_rate = 0.5}).documents.size() == 1);
  CHECK(verify(folder, {.least_pass_rate = 0.9}).documents.empty());
}

TEST_CASE("samples that do not fit their tasks are refused") {
  const TempFolder folder;
  const fs::path samples = make_samples(folder);
  const std::string records = read_file(samples / "documents.jsonl");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = records;
    changed.replace(changed.find(from), from.size(), to);
    write_text(samples / "documents.jsonl", changed);
  };
  with("\"task\":\"a\"", "\"task\":\"c\"");
  CHECK_THROWS_WITH(verify(folder, {}), Catch::Contains("names the task 'c'"));
  with(",\"task\":\"a\"", "");
  CHECK_THROWS_AS(verify(folder, {}), FormatError);
  with("\"role\":\"assistant\"", "\"role\":\"user\"");
  CHECK_THROWS_AS(verify(folder, {}), FormatError);
  write_text(samples / "documents.jsonl", records + records);
  CHECK_THROWS_WITH(verify(folder, {}), Catch::Contains("more completions of 'a'"));
  write_text(samples / "documents.jsonl", records);
  write_text(samples / "sampling.json", "{}");
  CHECK_THROWS_WITH(verify(folder, {}), Catch::Contains("sample --tasks FILE"));
}
