#pragma once
// Stage "teach": runs the teacher over windows of the corpus and stores its outputs as soft targets (records/soft_targets.h).

#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "model/compute.h"
#include "records/row_encoding.h"

namespace overproof {

struct TeachConfig {
  int64_t tokens = 49152, draws = 26, k = 32, seed = 0, batch_windows = 4;
  RowEncoding::Kind mode = RowEncoding::Kind::sample;
  std::string order_beacon;
  double temperature = 1.0;
  Compute compute = Compute::automatic;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, at_least(1), "tokens to teach, rounded down to whole windows; at most one pass over the corpus");
    v("mode", mode,
      enum_of<RowEncoding::Kind>({{"sample", RowEncoding::Kind::sample}, {"top-k", RowEncoding::Kind::top_k}}),
      "draw ids from the teacher's distribution (unbiased), or keep the most probable ones and a tail");
    v("draws", draws, in_range(1, 63),
      "sample: ids drawn at each position; 26 draws of the default teacher give 11 distinct ids and 35 bytes on average");
    v("k", k, in_range(1, 255), "top-k: ids kept at each position");
    v("temperature", temperature, in_range(0.05, 20), "divides the teacher's logits");
    v("seed", seed, seed_value(), "seed of the draws and of the order of windows");
    v("order-beacon", order_beacon, any_value(),
      "public randomness in hex from after the corpus was published; the order of training then depends on it, too");
    v("batch-windows", batch_windows, in_range(1, 4096), "windows that go through the teacher together");
    visit_compute(v, compute);
  }
};

struct TeachShardConfig : TeachConfig {
  std::string shard = "1/1";
  template <class V>
  void visit(V&& v) {
    TeachConfig::visit(v);
    v("shard", shard, any_value(), "which of how many parts, as 2/4: each a range of batches, and all together what `teach` makes");
  }
};

/// Slots: teacher, corpus. Throws MismatchError when they have different tokenizers, or the vocabulary does not fit the encoding.
/// A killed run resumes after the last finished batch.
StageReport run_teach(const TeachConfig& config, const Inputs& inputs, Outputs& outputs);

/// The same for a part of the windows, on one of several machines; records/merge_targets_stage.h puts parts together. Throws UsageError for a
/// shard that there is not, or that would be empty.
StageReport run_teach_shard(const TeachShardConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
