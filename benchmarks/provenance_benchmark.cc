// Cost of provenance in a training run, part by part, in one process:
//
//   bench_provenance STUDENT TARGETS CORPUS [--steps 6] [--repeat 3] [--batch 4]
//
// Training steps as in `distill`, and timed separately: the batch root and the chained record of a step, the digests of weights and
// optimizer. Then the costs per run: digests of inputs and outputs, both signatures. Prints one JSON object, which
// benchmarks/provenance_overhead.py formats; that script also measures whole runs.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "benchmarks/timing.h"
#include "core/json.h"
#include "core/parallel.h"
#include "distill/distillation.h"
#include "distill/state_digest.h"
#include "provenance/artifact.h"

using namespace overproof;

namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) try {
  ensure_short_waiting(argv);
  std::vector<std::string> folders;
  int64_t steps = 6, repeat = 3;
  DistillConfig config;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("--") && i + 1 < argc) {
      const int64_t value = std::atoll(argv[++i]);
      if (word == "--steps") steps = value;
      if (word == "--repeat") repeat = value;
      if (word == "--batch") config.training.batch_size = value;
    } else {
      folders.push_back(word);
    }
  }
  if (folders.size() != 3 || steps < 1 || repeat < 1)
    throw std::runtime_error("usage: bench_provenance STUDENT TARGETS CORPUS [--steps N] [--repeat N] [--batch N]");
  prepare_torch();
  std::map<std::string, InputArtifact> slots;
  const double hash_inputs = seconds_of([&] {
    const char* names[] = {"student", "targets", "corpus"};
    for (size_t i = 0; i < 3; ++i) slots[names[i]] = {folders[i], scan_artifact(folders[i]).root};
  });
  config.training.steps = steps;
  Distillation distillation = make_distillation(config, Inputs(slots));
  Training& training = distillation.training;
  StateDigester digester(training.student(), training.trainer());
  StepRecords records(StepFormat{.initial_weights = digester.weights(), .terms = training.terms()});
  std::vector<double> step, record, digest;
  for (int64_t s = 0; s < steps; ++s) {
    StepRecord r;
    step.push_back(seconds_of([&] { r = training.step(); }));
    record.push_back(seconds_of([&] {
      r.batch = training.batch_root(r.step);
      records.append(r);
    }));
    for (int64_t i = 0; i < repeat; ++i)
      digest.push_back(seconds_of([&] {
        r.weights = digester.weights();
        r.optimizer = digester.optimizer();
      }));
  }

  // Cost per run. Outputs are digested while they are written, so a pass over them measures it.
  const double hash_outputs = seconds_of([&] { scan_artifact(folders[0]); });
  const fs::path sealed = fs::temp_directory_path() / fmt::format("overproof-bench-seal-{}", ::getpid());
  fs::create_directories(sealed);
  const ArtifactRecord files = scan_artifact(folders[0]);
  Lineage lineage;
  lineage.kind = "distilled-from";
  lineage.stage = "distill";
  const Key key = Key::generate();
  const double seal = seconds_of([&] { seal_artifact(sealed, files.files, lineage, key); });
  fs::remove_all(sealed);

  const int64_t interval = digest_interval(-1, training.step_tokens());
  // Not counted: the first step allocates its memory.
  if (step.size() > 1) step.erase(step.begin());
  const double per_step = median(record) + median(digest) / double(interval);
  fmt::print("{}\n", Json{{"step_tokens", training.step_tokens()},
                          {"trained_parameters", training.trainer().trained_parameters()},
                          {"state_bytes", digester.bytes()},
                          {"threads", thread_count()},
                          {"step_seconds", median(step)},
                          {"record_seconds", median(record)},
                          {"digest_seconds", median(digest)},
                          {"digest_every", interval},
                          {"overhead", per_step / median(step)},
                          {"once_hash_inputs_seconds", hash_inputs},
                          {"once_hash_outputs_seconds", hash_outputs},
                          {"once_seal_seconds", seal}}
                         .dump());
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_provenance: {}\n", e.what());
  return 1;
}
