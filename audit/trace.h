#pragma once
// `overproof audit trace`, one verb with four questions:
//   --document  was this text used, by which stage, at which steps, against which rows of the teacher; which experts its source's
//               tokens went to; what was made from it
//   --step      which windows and documents one step of training read
//   --export    what an artifact was made from, under which licences
//   --span      which documents hold a passage word for word
// No log is kept for that: the order of training is a keyed permutation (data/order.h), so it is computed backwards.

#include <optional>
#include <string>
#include <vector>

#include "core/answer.h"
#include "core/config.h"
#include "core/json_fwd.h"
#include "data/corpus.h"
#include "provenance/key_rotation.h"
#include "provenance/run_folder.h"

namespace overproof {

/// What must hold before a question is answered.
inline EnumNames<VerifyFiles> verify_names() {
  return enum_of<VerifyFiles>({{"files", VerifyFiles::yes}, {"sizes", VerifyFiles::size}});
}

struct TraceConfig {
  std::string document, step, artifact, span;
  bool reached = false;
  int64_t min_words = 8, min_bytes = 32, documents = 10;
  VerifyFiles verify = VerifyFiles::yes;
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    v("document", document, any_value(), "a text file, the SHA-256 of a text, or a document's name in the corpus");
    v("step", step, any_value(), "ARTIFACT:STEP, steps counted from 0: the windows and documents that it read");
    v("export", artifact, any_value(), "an artifact: what it was made from, and the licences of all documents and models in it");
    v("span", span, any_value(),
      "a text, or @FILE: documents of the corpus that hold passages of it word for word; needs an index artifact");
    v("reached", reached, any_value(), "with --export: also count the documents that training or recovery reached");
    v("min-words", min_words, at_least(1), "with --span: shorter passages are not reported");
    v("min-bytes", min_bytes, at_least(1), "with --span: shorter passages are not reported");
    v("documents", documents, in_range(1, 1000), "with --span: documents listed of each passage");
    v("verify", verify, verify_names(),
      "what must hold before an answer is given: every file's digest, or signatures and sizes alone (faster; for many questions "
      "in a row)");
    trust.visit(v);
  }
};

/// A window of training that holds a part of the document.
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
  std::string artifact, kind;               ///< "student", "distilled-from"
  int64_t window = 0, step = 0, place = 0;  ///< counted from 0; place in the step's batch
};

/// Where a layer's router sent the tokens of the document's source: all experts, the largest share first.
struct TracedExpert {
  int64_t expert = 0;
  double share = 0;  ///< of the source's routed tokens in this layer
  double mass = 0;   ///< of the expert's tokens that came from the source
};
struct TracedExperts {
  std::string artifact;
  int64_t source_tokens = 0;
  std::vector<std::vector<TracedExpert>> layers;
};

/// An artifact that the document is in.
struct TracedDescendant {
  std::string artifact, kind;
  bool trained = false;  ///< its weights were trained on the document; else only statistics or the teacher's answers saw it
};

enum class TraceStatus { absent, held_out, never_reached, used };

struct Trace {
  TraceStatus status = TraceStatus::absent;
  std::string corpus;  ///< the artifact's name
  std::optional<Document> document;
  bool other_text = false;  ///< a file was given whose text is not in the corpus, and the document only has its name
  int64_t window_length = 0, windows = 0;  ///< of the document's split
  std::vector<TracedWindow> in_windows;
  std::vector<TracedRows> rows;
  std::vector<TracedUse> uses;
  std::vector<TracedExperts> experts;  ///< of artifacts that were trained on it; by source, so of one document an estimate
  std::vector<TracedDescendant> reaches;
};

/// `folder` is a run or one artifact of it. Throws UsageError when it holds no corpus or several, ProvenanceError when an
/// artifact that the answer rests on does not hold.
Trace trace_document(const fs::path& folder, const TraceConfig& config);

/// A document in one window of a step.
struct StepDocument {
  std::string name, source, license;
  Digest digest;
  int64_t first_token = 0, last_token = 0;  ///< in the document; of the inputs and, where there are any, labels
};
struct StepWindow {
  int64_t place = 0, window = 0, block = -1;  ///< block: of the soft targets; -1 where none are read
  std::vector<StepDocument> documents;
};
struct StepTrace {
  std::string artifact, corpus;
  int64_t step = 0, steps = 0;
  std::vector<StepWindow> windows;
};
/// config.step is ARTIFACT:STEP. Throws UsageError when there is no such artifact or step.
StepTrace trace_step(const fs::path& folder, const TraceConfig& config);

struct Ancestor {
  std::string artifact, kind;
  Digest root;
  std::vector<std::string> made_from;  ///< names; of what is not here "name (not here)"
};
/// Documents under one licence, of all corpora among the ancestors.
struct TracedLicense {
  std::string license;
  int64_t documents = 0, bytes = 0;
  int64_t reached = 0;  ///< documents of which training or recovery read at least a token; counted on request
};
struct AncestryTrace {
  std::string artifact;
  std::vector<Ancestor> ancestors;                          ///< oldest first, the artifact itself last
  std::vector<std::pair<std::string, std::string>> models;  ///< imported artifact, its licence ("not stated")
  std::vector<TracedLicense> licenses;
  bool complete = true;  ///< false when something it was made from is not in the folder
};
AncestryTrace trace_ancestry(const fs::path& folder, const TraceConfig& config);

struct SpanDocument {
  std::string name, source, license, split;
  Digest digest;
  int64_t byte = 0;  ///< where the passage begins in the document's text
};
struct TracedSpan {
  int64_t begin = 0, end = 0, words = 0, occurrences = 0;
  std::string text;
  bool more_documents = false;
  std::vector<SpanDocument> documents;  ///< each document's text was read, holds the passage and has its digest
};
struct SpanTrace {
  std::string index, corpus;
  int64_t bytes = 0, words = 0;  ///< of the text that was asked about
  std::vector<TracedSpan> spans;
};
SpanTrace trace_span(const fs::path& folder, const TraceConfig& config);

/// Loads a run of which every artifact must hold; throws ProvenanceError naming the first that does not.
RunFolder load_sound_run(const fs::path& folder, VerifyFiles verify, const TrustOptions& trust = {});

/// Exit code 0 whatever the answer is. Throws UsageError unless exactly one question is asked.
Answer audit_trace(const TraceConfig& config, const fs::path& folder);

// The answers in JSON and in words; each is in the file of its question.
Json to_json(const StepTrace& trace);
Json to_json(const AncestryTrace& trace, bool reached);
Json to_json(const SpanTrace& trace);
std::string text_of(const StepTrace& trace);
std::string text_of(const AncestryTrace& trace, bool reached);
std::string text_of(const SpanTrace& trace);

}  // namespace overproof
