#pragma once
// `overproof audit rows`: asks the teacher again and holds what it says against the soft targets on disk, byte for byte.

#include <ostream>
#include <string>

#include "core/config.h"
#include "core/file.h"

namespace overproof {

struct CheckRowsConfig {
  std::string teacher, corpus;
  int64_t row = -1, rows = 16, seed = 0;
  template <class V>
  void visit(V&& v) {
    v("teacher", teacher, any_value(), "the teacher that the targets name; default: the artifact 'teacher' beside them");
    v("corpus", corpus, any_value(), "the corpus that the targets name; default: the artifact 'corpus' beside them");
    v("row", row, at_least(-1), "row to make again: block x window-length + position; -1: draw some");
    v("rows", rows, in_range(1, 1e6), "how many rows to draw");
    v("seed", seed, in_range(0, 9007199254740991.0), "of the draw: take it from public randomness, after the targets were published");
  }
};

/// Prints one line a row (with `json` one object a line) and returns 0 when all are equal, 4 when one is not. Throws UsageError
/// when teacher or corpus are not those that the targets were made with.
int check_rows(const CheckRowsConfig& config, const fs::path& targets, bool json, std::ostream& out);

}  // namespace overproof
