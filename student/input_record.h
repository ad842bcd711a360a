#pragma once
// Collects the statistics of the inputs of Linear weights (records/activation_statistics.h).

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "records/activation_journal.h"

namespace overproof {

struct RecorderOptions {
  int64_t samples = 256;
  bool hessians = false;
};

/// The input of one set of Linear weights, row after row.
class InputRecord {
 public:
  /// Expects `rows` rows in all; options.samples of them, evenly spread, are kept.
  InputRecord(int64_t columns, int64_t rows, const RecorderOptions& options);
  /// x f32 [n, columns]: the next rows.
  void add(const at::Tensor& x);
  /// Adds the statistics of all `rows` rows to the journal. `weights` are names without ".weight"; routed + forced == rows.
  void file(ActivationJournal& journal, std::vector<std::string> weights, int64_t routed, int64_t forced) const;

 private:
  int64_t rows_, seen_ = 0, kept_ = 0;
  at::Tensor amax_, range_, samples_, hessian_, square_;  // square_: f64 sum
};

}  // namespace overproof
