#pragma once
// Stage `verify-samples`: completions of tasks are judged by the verifiers of the tasks, and those that pass become documents for training.
//
//   verified/documents.jsonl  the records of the samples that were kept, with: verdict; weight, where it is not 1; parents: also the sample, by name and digest of its record
//   verified/verdicts.jsonl   one record for each completion, kept or not: {"name", "task", "verdict", "reason", "answer", "kept"}; a model that ended
//                             at once has "name" null
//   verified/tokens.jsonl, tasks.jsonl, sampling.json   of the samples, for what was kept; sampling.json has "verified", too
// What a time limit ended may pass on another machine: verdicts of programs near their limits are not repeated byte for byte.

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

enum class KeptVerdicts { correct, not_wrong };
/// Of a document in training: every one the same, or every task.
enum class SampleWeights { documents, tasks };

struct VerifySamplesConfig {
  KeptVerdicts keep = KeptVerdicts::correct;
  SampleWeights weights = SampleWeights::documents;
  int64_t most_per_task = 0;
  double least_pass_rate = 0, most_pass_rate = 1;
  double seconds = 10, command_seconds = 60;
  int64_t memory_mib = 512, processes = 16, file_mib = 16, output_kib = 64;
  template <class V>
  void visit(V&& v) {
    v("keep", keep, enum_of<KeptVerdicts>({{"correct", KeptVerdicts::correct}, {"not-wrong", KeptVerdicts::not_wrong}}),
      "correct: what is shown to be correct; not-wrong: also what a verifier cannot decide");
    v("weights", weights, enum_of<SampleWeights>({{"documents", SampleWeights::documents}, {"tasks", SampleWeights::tasks}}),
      "documents: all count the same in training; tasks: what is kept of a task counts as one document, equal completions by their number");
    v("most-per-task", most_per_task, in_range(0, 1e6), "largest number of completions that are kept of a task, the first ones, equal ones once; 0: all");
    v("least-pass-rate", least_pass_rate, in_range(0, 1), "tasks of which a smaller share of the completions is correct are left out");
    v("most-pass-rate", most_pass_rate, in_range(0, 1), "tasks of which a larger share is correct are left out, as too easy");
    v("seconds", seconds, in_range(0.1, 3600), "programs: wall-clock time, and processor time of a process");
    v("memory-mib", memory_mib, in_range(16, 1 << 20), "programs: memory of a process, and of all together");
    v("processes", processes, in_range(1, 4096), "programs: number of processes");
    v("file-mib", file_mib, in_range(1, 1 << 16), "programs: size of all files in /tmp, which are in memory");
    v("output-kib", output_kib, in_range(1, 1 << 20), "programs: bytes of output");
    v("command-seconds", command_seconds, in_range(0.1, 86400), "command: time for one completion");
  }
};

/// Slots: samples, an artifact that `sample --tasks` made; command, optional: a program that judges tasks of the type `command`
/// (verify/command_verifier.h). Throws FormatError for samples without tasks, MismatchError when a command is missing, IoError where it
/// fails, and where programs need a sandbox and there is none.
StageReport run_verify_samples(const VerifySamplesConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
