#pragma once
// Stage "import-targets": log-probabilities that a teacher gave elsewhere become soft targets of a corpus, evidence "recorded".
//
//   source   JSON Lines, a document each (tools/convert_targets.py writes them from Parquet and from rows of other trainers):
//            {"ids": [5, 17, 9], "top_ids": [[17, 3], [9], []], "top_logs": [[-0.1, -2.5], [-0.7], []]}
//            Row i is the distribution of the token after ids[i]; an empty one: nothing is known. Natural logarithms.

#include <string>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct ImportTargetsConfig {
  int64_t tokens = 49152, top_k = 32, seed = 0;
  std::string order_beacon;
  double least_coverage = 0.5;
  template <class V>
  void visit(V&& v) {
    v("tokens", tokens, at_least(1), "tokens to take, rounded down to whole windows; at most one pass over the corpus");
    v("top-k", top_k, in_range(1, 255), "ids kept at each position, the likeliest; the rest goes to the tail");
    v("seed", seed, seed_value(), "seed of the order of windows");
    v("order-beacon", order_beacon, any_value(),
      "public randomness in hex from after the corpus was published; the order of training then depends on it, too");
    v("least-coverage", least_coverage, in_range(0, 1), "share of the tokens that must get targets");
  }
};

/// Slots: teacher, an artifact of `connect` or `import`; corpus; source. A document of the corpus gets the rows of the record with its ids,
/// with or without the separator after it. Throws FormatError for faulty records, MismatchError for another tokenizer, QualityError when
/// too few tokens get targets.
StageReport run_import_targets(const ImportTargetsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
