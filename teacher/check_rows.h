#pragma once
// `overproof audit rows`: asks the teacher again and holds what it says against the soft targets on disk, byte for byte.

#include <iosfwd>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/digest.h"
#include "core/file.h"
#include "core/json_fwd.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct CheckRowsConfig {
  std::string teacher, corpus;
  int64_t row = -1, rows = 16, seed = 0;
  TrustOptions trust;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("teacher", teacher, any_value(), "the teacher that the targets name; default: the artifact 'teacher' beside them");
    v("corpus", corpus, any_value(), "the corpus that the targets name; default: the artifact 'corpus' beside them");
    v("row", row, at_least(-1), "row to make again: block x window-length + position; -1: draw some");
    v("rows", rows, in_range(1, 1e6), "how many rows to draw");
    v("seed", seed, in_range(0, 9007199254740991.0),
      "of the draw: take it from public randomness, after the targets were published");
    trust.visit(v);
    record.visit(v);
  }
};

struct CheckedRow {
  int64_t row = 0;
  size_t bytes = 0;
  bool equal = false;
};

/// What was found. `faults` are what does not hold of the artifact that keeps the rows.
struct RowCheck {
  std::string artifact;
  Digest root, teacher, corpus;
  bool drawn = false;  ///< by the seed; else the one row that was asked for
  int64_t seed = 0, rows_total = 0, window_length = 0;
  std::vector<CheckedRow> rows;  ///< ascending; a row that was drawn twice stands here twice
  std::vector<std::string> faults;
  int64_t equal() const;
  bool holds() const { return faults.empty() && equal() == int64_t(rows.size()); }
  Json to_json() const;
};

/// Throws UsageError when teacher or corpus are not those that the targets were made with.
RowCheck check_rows(const CheckRowsConfig& config, const fs::path& targets);

/// Checks and prints. Returns 0, or 4 when anything does not hold.
int audit_rows(const CheckRowsConfig& config, const fs::path& targets, bool json, std::ostream& out);

}  // namespace overproof
