#pragma once
// Stage `index`: sorts a corpus's texts (data/span_index.h), so that `audit trace --span` finds the documents that hold a
// passage.

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct IndexConfig {
  int64_t shard_bytes = 1 << 28;
  int64_t at_once = 2;
  template <class V>
  void visit(V&& v) {
    v("shard-bytes", shard_bytes, in_range(1024, 2147483647),
      "bytes of text sorted as one piece, a document at least; larger answers faster");
    v("at-once", at_once, in_range(1, 256), "pieces sorted at a time, a thread and 6 bytes of memory a byte of text each");
  }
};

/// Slot "corpus". The artifact does not depend on the number of threads. Throws FormatError when a text does not have its digest.
StageReport run_index(const IndexConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
