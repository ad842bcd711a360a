#pragma once
// `overproof audit trace`: was this document used, by which stage, at which steps, against which rows of the teacher? No
// log is kept for that: the order of training is a keyed permutation (data/order.h), so it is computed backwards.

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "provenance/run_folder.h"
#include "core/config.h"
#include "data/corpus.h"

namespace overproof {

struct TraceConfig {
  std::string document;
  template <class V>
  void visit(V&& v) {
    v("document", document, any_value(), "a text file, the SHA-256 of a text, or a document's name in the corpus");
  }
};

/// A window of training in which the document stands.
struct TracedWindow {
  int64_t window = 0;
  /// Positions in the window whose input or label is one of the document's tokens: [first, last].
  int64_t first_position = 0, last_position = 0;
};

/// Rows [first_row, last_row] of a soft-targets artifact: the teacher's answers about the document.
struct TracedRows {
  std::string artifact;
  int64_t window = 0, block = 0, first_row = 0, last_row = 0;
};

/// One use of a window that changed weights or statistics.
struct TracedUse {
  std::string artifact, kind;  ///< "student", "distilled-from"
  int64_t window = 0, step = 0, place = 0;  ///< counted from 0; place in the step's batch
};

enum class TraceStatus { absent, held_out, never_reached, used };

struct Trace {
  TraceStatus status = TraceStatus::absent;
  std::string corpus;                 ///< the artifact's name
  std::optional<Document> document;
  int64_t window_length = 0, windows = 0;  ///< of the document's split
  std::vector<TracedWindow> in_windows;
  std::vector<TracedRows> rows;
  std::vector<TracedUse> uses;
};

/// `folder` is a run or one artifact of it. Throws UsageError when it holds no corpus or several, ProvenanceError when an
/// artifact that the answer rests on does not hold.
Trace trace_document(const fs::path& folder, const TraceConfig& config);

/// Traces and prints. Returns 0 whatever the answer is.
int audit_trace(const TraceConfig& config, const fs::path& folder, bool json, std::ostream& out);

}  // namespace overproof
