#pragma once
// `overproof audit replay`: makes some segments of a training again and compares the results with the step records.
//
// The segments are drawn from public randomness, so k draws catch a forger of a fraction f of them with a probability of at least
// 1 - (1 - f)^k. The last segment is always made, because one forged segment is enough to exchange the whole model. Checks that need
// no training are made for every step: order, counts, learning rate and batch root. All files next to the weights are made again:
// configuration, tokenizer and templates from the parent, router counts from the state that the last segment ends with.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "core/digest.h"
#include "core/file.h"
#include "core/json_fwd.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct ReplayConfig {
  std::string artifact = "student", seed;
  std::optional<double> tolerance;  ///< nothing: bitwise
  TrustOptions trust;
  int64_t segments = 3;
  RecordOptions record;
  StringMap file;
  template <class V>
  void visit(V&& v) {
    v("segments", segments, in_range(0, 1e9),
      "number of segments to draw and make again, in addition to the last; 0: only the checks of every step that need no training");
    v("seed", seed, any_value(), "public randomness in hex from after the run was published: a beacon's round, a lottery's draw");
    v("artifact", artifact, any_value(), "artifact that distill, calibrate or pretrain trained; unused when the folder is one artifact");
    v("tolerance", tolerance, or_word("bitwise", in_range(1e-12, 0.999)),
      "bitwise, for the build and kind of processor that trained; else the largest difference of the weights as a fraction of "
      "their movement, such as 1e-4");
    v("file", file, any_value(), "files from outside that distill read, comma-separated: tasks=PATH, command=PATH");
    trust.visit(v);
    record.visit(v);
  }
};

struct ReplayedSegment {
  int64_t number = 0;                    ///< of StepRecords::segment_ends; with a tolerance, of the spans between kept states
  int64_t first_step = 0, end_step = 0;  ///< steps [first, end)
  int64_t from_step = 0;                 ///< where the replay began: 0, a kept state, or the end of the segment before
  bool drawn = true;                     ///< by the seed; else it is the last one, which is always made
  bool equal = false;
  std::string difference;         ///< the first one
  double weight_difference = -1;  ///< |made again - recorded| / |recorded - before|; -1 when not measured
};

/// What was found. `faults`: what does not hold, other than segments; `notes`: what could not be compared, and why.
struct Replay {
  std::string artifact;
  Digest root;
  std::optional<Digest> statement;  ///< Lineage::statement of the artifact
  std::string seed;
  int64_t steps = 0, steps_planned_equal = 0;
  int64_t segments_total = 0;
  std::vector<ReplayedSegment> segments;
  int64_t drawn() const;  ///< segments that the seed drew
  int64_t files_equal = 0;      ///< next to weights and records, made again with the same bytes
  bool counts_equal = false;    ///< router counts, too, which takes the state after the last step
  std::vector<std::string> faults, notes;
  std::string chain;
  double tolerance = 0;  ///< 0: bitwise
  bool holds() const;
  Json to_json() const;
};

/// The numbers of `count` of `total` segments, without replacement, ascending: drawn by a generator keyed with
/// SHA-256("overproof replay draw v1" | seed's digits in lower case | root). Throws UsageError when the seed is no hex.
std::vector<int64_t> draw_segments(int64_t total, int64_t count, std::string_view seed, const Digest& root);

/// Probability that `drawn` of `total` segments, drawn without replacement, hold one of `forged`.
double caught_exactly(int64_t total, int64_t drawn, int64_t forged);

/// `folder` is a run, or the trained artifact with its parents next to it. Throws UsageError when there is nothing to replay.
Replay replay(const ReplayConfig& config, const fs::path& folder);

/// Replays, and signs what was found if a record is asked for. The exit code is 4 when anything does not hold.
Answer audit_replay(const ReplayConfig& config, const fs::path& folder);

}  // namespace overproof
