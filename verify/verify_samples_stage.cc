#include "verify/verify_samples_stage.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "records/sampled_tokens.h"
#include "verify/pass_rate.h"
#include "verify/verifier.h"

namespace overproof {
namespace {

constexpr int64_t kMostFacts = 1 << 20;

struct Sample {
  std::string line, name, task, completion;
  int64_t offset = 0;
};

/// The completion of a record: its last message, or what is behind a plain prompt.
std::string completion_of(const JsonObject& record) {
  if (!record.has("messages")) return record.text("completion");
  const auto messages = record.objects("messages");
  if (messages.empty()) record.fail("messages", "is empty");
  messages.back().expect_text("role", "assistant");
  return messages.back().text("content");
}

std::vector<Sample> read_samples(const fs::path& folder) {
  const fs::path path = folder / "documents.jsonl";
  const MappedFile file(path);
  std::vector<Sample> samples;
  for_each_line(file, [&](std::string_view line, int64_t offset) {
    const Json json = parse_json(line, path, offset);
    if (!json.is_object()) throw FormatError(path, offset, "a sample is one JSON object a line");
    const JsonObject record(json, path, "", JsonNull::value, offset);
    if (!record.has("task")) record.fail("has no 'task'; verify-samples takes what `sample --tasks FILE` made");
    samples.push_back({std::string(line), record.text("name"), record.text("task"), completion_of(record), offset});
  });
  return samples;
}

}  // namespace

StageReport run_verify_samples(const VerifySamplesConfig& config, const Inputs& inputs, Outputs& outputs) {
  const fs::path folder = inputs.path("samples");
  const fs::path facts_file = folder / "sampling.json";
  Json facts = read_json(facts_file, kMostFacts);
  const JsonObject sampling(facts, facts_file);
  if (!sampling.has("tasks")) throw FormatError(facts_file, -1, "its samples have no tasks; verify-samples takes what `sample --tasks FILE` made");
  const int64_t per_task = sampling.object("tasks").count("per_task");
  const std::vector<Task> tasks = read_tasks(folder / "tasks.jsonl");
  std::map<std::string_view, size_t> places;
  for (size_t i = 0; i < tasks.size(); ++i) places[tasks[i].name] = i;
  const std::vector<Sample> samples = read_samples(folder);
  std::vector<std::vector<size_t>> of_task(tasks.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto place = places.find(samples[i].task);
    if (place == places.end())
      throw FormatError(folder / "documents.jsonl", samples[i].offset, fmt::format("names the task '{}', which tasks.jsonl does not have", samples[i].task.substr(0, 100)));
    of_task[place->second].push_back(i);
    if (int64_t(of_task[place->second].size()) > per_task)
      throw FormatError(folder / "documents.jsonl", samples[i].offset, fmt::format("has more completions of '{}' than sampling.json gives", samples[i].task.substr(0, 100)));
  }

  VerifierOptions options{.command_seconds = config.command_seconds,
                          .sandbox = {.seconds = config.seconds,
                                      .memory_bytes = config.memory_mib << 20,
                                      .processes = config.processes,
                                      .file_bytes = config.file_mib << 20,
                                      .output_bytes = config.output_kib << 10}};
  if (inputs.has("command")) options.command = inputs.path("command");
  Verifier verifier(options);
  std::vector<TaskTally> tallies(tasks.size());
  std::vector<Judgement> judgements(samples.size());
  std::map<size_t, double> kept;  // with weights
  int64_t left_out_tasks = 0, repeated = 0, done = 0;
  std::string verdicts;
  const bool by_task = config.weights == SampleWeights::tasks;
  Progress progress("verify-samples", int64_t(samples.size()), "completions");
  for (size_t t = 0; t < tasks.size(); ++t) {
    TaskTally& tally = tallies[t];
    for (const size_t i : of_task[t]) {
      throw_if_interrupted();
      judgements[i] = verifier.judge(tasks[t], samples[i].completion);
      const TaskVerdict verdict = judgements[i].verdict;
      ++(verdict == TaskVerdict::correct ? tally.correct : verdict == TaskVerdict::wrong ? tally.wrong : tally.unknown);
      progress.update(++done);
    }
    const int64_t empty = per_task - int64_t(of_task[t].size());
    tally.unknown += empty;
    const double rate = double(tally.correct) / double(per_task);
    const bool taken = rate >= config.least_pass_rate && rate <= config.most_pass_rate;
    left_out_tasks += !taken;
    std::map<std::string_view, size_t> distinct;  // completions, and the first sample of each
    for (const size_t i : of_task[t]) {
      const TaskVerdict verdict = judgements[i].verdict;
      if (!taken || (verdict != TaskVerdict::correct && (verdict == TaskVerdict::wrong || config.keep == KeptVerdicts::correct))) continue;
      if (config.most_per_task > 0 || by_task) {
        const auto [first, is_new] = distinct.try_emplace(samples[i].completion, i);
        if (!is_new) {
          ++repeated;
          if (kept.contains(first->second)) ++kept[first->second];
          continue;
        }
        if (config.most_per_task > 0 && int64_t(distinct.size()) > config.most_per_task) continue;
      }
      kept[i] = 1;
    }
    double counted = 0;
    for (const size_t i : of_task[t])
      if (const auto found = kept.find(i); found != kept.end()) counted += found->second;
    for (const size_t i : of_task[t])
      if (const auto found = kept.find(i); found != kept.end()) found->second = by_task ? found->second / counted : 1;
    for (const size_t i : of_task[t])
      verdicts += dump_text({{"name", samples[i].name},
                             {"task", tasks[t].name},
                             {"verdict", verdict_name(judgements[i].verdict)},
                             {"reason", judgements[i].reason},
                             {"answer", judgements[i].answer},
                             {"kept", kept.contains(i)}}) +
                  "\n";
    for (int64_t i = 0; i < empty; ++i)
      verdicts += Json{{"name", nullptr}, {"task", tasks[t].name}, {"verdict", "unknown"}, {"reason", "empty"}, {"answer", ""}, {"kept", false}}.dump() + "\n";
  }
  const PassRate rate = pass_rate(tallies);

  OutputFolder& out = outputs.folder();
  std::string records;
  std::set<std::string_view> names;
  for (const auto& [i, weight] : kept) {
    Json record = parse_json(samples[i].line, folder / "documents.jsonl", samples[i].offset);
    record["verdict"] = verdict_name(judgements[i].verdict);
    if (weight != 1) record["weight"] = weight;
    record["parents"].push_back({{"slot", "samples"}, {"name", samples[i].name}, {"digest", "sha256:" + sha256(samples[i].line).hex()}});
    records += record.dump() + "\n";
    names.insert(samples[i].name);
  }
  std::string tokens;
  int64_t token_count = 0;
  const fs::path token_file = folder / kSampledTokensName;
  for_each_line(MappedFile(token_file), [&](std::string_view line, int64_t offset) {
    const Json json = parse_json(line, token_file, offset);
    const JsonObject record(json, token_file, "", JsonNull::value, offset);
    if (!names.contains(record.text("name"))) return;
    tokens += std::string(line) + "\n";
    token_count += int64_t(record.list("tokens").size());
  });
  facts["documents"] = kept.size();
  facts["chats"] = 0;
  facts["tokens"] = token_count;
  facts["verified"] = rate.to_json();
  out.write_file("documents.jsonl", records);
  out.write_file("verdicts.jsonl", verdicts);
  out.write_file(kSampledTokensName, tokens);
  out.write_file("tasks.jsonl", read_file(folder / "tasks.jsonl"));
  out.write_file("sampling.json", facts.dump(1) + "\n");

  StageReport report;
  report.metrics() = {{"documents", kept.size()}, {"tokens", token_count}, {"pass_rate", rate.to_json()}, {"tasks_left_out", left_out_tasks}, {"repeated", repeated}};
  report.summary.push_back(rate.text());
  report.summary.push_back(fmt::format("kept {} of {} completions{}{}", kept.size(), tasks.size() * size_t(per_task),
                                       left_out_tasks > 0 ? fmt::format("; {} tasks left out by their pass rate", left_out_tasks) : "",
                                       repeated > 0 ? fmt::format("; {} repeated", repeated) : ""));
  if (kept.empty()) report.summary.push_back("note: nothing was kept, so no corpus can be made of this artifact");
  return report;
}

}  // namespace overproof
