#pragma once
// `overproof audit rows`: computes rows of soft targets again from the teacher and compares them with those on disk, byte for byte.

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

struct CheckRowsConfig {
  fs::path teacher, corpus;
  int64_t row = -1, rows = 16;
  std::string seed;
  TrustOptions trust;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("teacher", teacher, any_value(), "the teacher that the targets name; default: the artifact of that name next to them");
    v("corpus", corpus, any_value(), "the corpus that the targets name; default: the artifact of that name next to them");
    v("row", row, at_least(-1), "row to compute again: window x window-length + position; -1: draw rows, of those that are stored");
    v("rows", rows, in_range(1, 1e6), "number of rows to draw");
    v("seed", seed, any_value(),
      "public randomness in hex from after the targets were published: a beacon's round, a lottery's draw");
    trust.visit(v);
    record.visit(v);
  }
};

struct CheckedRow {
  int64_t row = 0;
  size_t bytes = 0;
  bool equal = false;
};

/// What was found. `faults`: what does not hold in the artifact of the rows.
struct RowCheck {
  std::string artifact;
  Digest root, teacher, corpus;
  std::optional<Digest> statement;  ///< Lineage::statement of the targets
  bool drawn = false;               ///< by the seed; else the one row that was asked for
  std::string seed;
  int64_t rows_total = 0;           ///< with entries: rows of masked tokens have none
  int64_t window_length = 0;
  std::vector<CheckedRow> rows;  ///< ascending, each once
  std::vector<std::string> faults;
  int64_t equal() const;
  bool holds() const { return faults.empty() && equal() == int64_t(rows.size()); }
  Json to_json() const;
};

/// The rows that the seed draws of `total`: draw_publicly() for "overproof rows draw v1". Throws UsageError when the seed is no hex.
std::vector<int64_t> draw_rows(int64_t total, int64_t count, std::string_view seed, const Digest& root);

/// Throws MismatchError when teacher or corpus are not those that the targets were made with, or the rows are a record of a teacher
/// that is out of reach, UsageError when rows are to be drawn without a seed.
RowCheck check_rows(const CheckRowsConfig& config, const fs::path& targets);

/// Checks, and signs what was found if a record is asked for. The exit code is 4 when anything does not hold.
Answer audit_rows(const CheckRowsConfig& config, const fs::path& targets);

}  // namespace overproof
