#pragma once
// Stage "teach": runs the teacher over windows of the corpus and keeps what it said (records/soft_targets.h).

#include <vector>

#include "core/config.h"
#include "core/stage.h"
#include "data/corpus.h"
#include "model/decoder.h"
#include "records/soft_targets.h"

namespace overproof {

struct TeachConfig {
  int64_t tokens = 49152, draws = 26, k = 32, seed = 0, batch_windows = 4;
  std::string mode = "sample";
  std::string order_beacon;
  double temperature = 1.0;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, at_least(1), "tokens to teach, rounded down to whole windows; at most the corpus once");
    v("mode", mode, one_of({"sample", "top-k"}),
      "draw ids from the teacher's distribution (unbiased), or keep the most probable ones and a tail");
    v("draws", draws, in_range(1, 63),
      "sample: ids drawn at each position; 26 of the default teacher are 11 distinct ids and 35 bytes on average");
    v("k", k, in_range(1, 255), "top-k: ids kept at each position");
    v("temperature", temperature, in_range(0.05, 20), "divides the teacher's logits");
    v("seed", seed, any_value(), "of the draws and of the order of windows");
    v("order-beacon", order_beacon, any_value(),
      "public randomness in hex that came out after the corpus was published; the order of training is then drawn from it, too");
    v("batch-windows", batch_windows, in_range(1, 4096), "windows that go through the teacher together");
  }
};

/// Inputs "teacher" and "corpus". Throws UsageError when corpus and teacher were made with different tokenizers.
/// A killed run goes on after the last finished batch.
StageReport run_teach(const TeachConfig& config, const Inputs& inputs, Outputs& outputs);

/// The bytes of row `row` (block x window_length + position), made again from the teacher in the same company of windows;
/// equal to targets.row_bytes(row) for the teacher and corpus that the targets name.
std::vector<uint8_t> rederive_row(const Decoder& teacher, const Corpus& corpus, const SoftTargets& targets, int64_t row);

}  // namespace overproof
