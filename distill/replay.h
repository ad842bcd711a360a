#pragma once
// `overproof audit replay`: makes some segments of a training again and holds what comes out against the step records.
//
// Which segments is drawn from public randomness, so whoever forged a fraction f of them is caught by k draws with a probability
// of at least 1 - (1 - f)^k. What costs little is done for every step: the order, the counts, the learning rate and the batch
// root.

#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/digest.h"
#include "core/file.h"
#include "core/json_fwd.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct ReplayConfig {
  std::string artifact = "student", seed, tolerance = "bitwise";
  TrustOptions trust;
  int64_t segments = 3;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("segments", segments, in_range(0, 1e9),
      "how many segments to draw and make again; 0: only what can be checked of every step without training");
    v("seed", seed, any_value(),
      "public randomness in hex that nobody knew when the run was published: a beacon's round, a lottery's draw");
    v("artifact", artifact, any_value(), "what was trained, by distill or calibrate; unused when the folder is one artifact");
    v("tolerance", tolerance, any_value(),
      "bitwise, for the build and kind of processor that trained; or the largest difference of weights over their movement, such "
      "as 1e-4");
    trust.visit(v);
    record.visit(v);
  }
};

struct ReplayedSegment {
  int64_t number = 0;                    ///< of StepRecords::segment_ends; with a tolerance, of the spans between kept states
  int64_t first_step = 0, end_step = 0;  ///< steps [first, end)
  int64_t from_step = 0;                 ///< where the training was taken up: 0, a kept state, or the end of the segment before
  bool equal = false;
  std::string difference;         ///< the first that was seen
  double weight_difference = -1;  ///< |made again - recorded| / |recorded - before|; -1 when not measured
};

/// What was found. `faults` are what does not hold beside the segments; `notes` what could not be compared, and why.
struct Replay {
  std::string artifact;
  Digest root;
  std::string seed;
  int64_t steps = 0, steps_planned_equal = 0;
  int64_t segments_total = 0;
  std::vector<ReplayedSegment> segments;
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

/// `folder` is a run, or the trained artifact with its parents beside it. Throws UsageError when there is nothing to replay.
Replay replay(const ReplayConfig& config, const fs::path& folder);

/// Replays and prints. Returns 0, or 4 when anything does not hold.
int audit_replay(const ReplayConfig& config, const fs::path& folder, bool json, std::ostream& out);

}  // namespace overproof
