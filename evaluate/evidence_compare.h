#pragma once
// `overproof audit compare A B`: runs every test of kinship between two models for which the inputs suffice. B is the suspect; A is
// a run, an artifact, or a model that is claimed to be its parent or teacher.

#include "core/answer.h"
#include "core/config.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

/// What the order test correlates with the place in training.
enum class OrderScore { kl, loss };

struct CompareConfig {
  StringList only;
  fs::path teacher, corpus, reference;
  OrderScore score = OrderScore::kl;
  int64_t windows = 2048, draws = 100000;
  StringList controls;
  int64_t prompts = 1024;
  int64_t neurons = 2048, weight_permutations = 199;
  fs::path watermark_key, watermark_text;
  int64_t watermark_tokens = 65536;
  int64_t batch = 8, seed = 0;
  TrustOptions trust;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("only", only, one_of({"order", "weights", "agreement", "radioactivity"}),
      "comma-separated tests to run; empty: all for which the inputs suffice");
    v("teacher", teacher, any_value(), "order: model that KL is measured against; empty: the teacher of A's run");
    v("corpus", corpus, any_value(),
      "agreement, radioactivity: corpus whose held-out windows are the prompts; empty: that of A's run");
    v("reference", reference, any_value(),
      "order: model that estimates how hard a window is for any model; empty: the model that A's training began with; none: no "
      "such "
      "model");
    v("score", score, enum_of<OrderScore>({{"kl", OrderScore::kl}, {"loss", OrderScore::loss}}),
      "order: what is correlated, KL to the teacher or the loss on the text; without teacher, the loss");
    v("windows", windows, in_range(3, 1e7), "order: training windows to read, at most");
    v("draws", draws, in_range(0, 1e9), "order: random pairings that confirm the p-value; 0: none");
    v("controls", controls, any_value(), "agreement: comma-separated models unrelated to A, with the same tokenizer");
    v("prompts", prompts, in_range(1, 1e7), "agreement: prompts at most, one for each held-out window");
    v("neurons", neurons, in_range(3, 65536), "weights: neurons of a layer to match, at most");
    v("weight-permutations", weight_permutations, in_range(0, 1e6),
      "weights: permutations of the residual stream; 0: without that test");
    v("watermark-key", watermark_key, any_value(), "radioactivity: the key of the watermark in A's samples");
    v("watermark-text", watermark_text, any_value(),
      "radioactivity: a folder written by `sample`; empty: held-out windows, which find less");
    v("watermark-tokens", watermark_tokens, in_range(1, 1e9), "radioactivity: tokens of text to give to the suspect, at most");
    v("batch", batch, in_range(1, 4096), "windows in one forward pass");
    v("seed", seed, seed_value(), "of random pairings and permutations");
    trust.visit(v);
    record.visit(v);
  }
};

/// The answer states what each test found, or why it could not be run; its JSON is one object {"a", "b", "tests"}. The exit code is
/// 0: a comparison is no verdict, and no finding is a fault. A record belongs to the run of A, or of B where A is a lone model.
/// Throws UsageError on options, FormatError and IoError on models that cannot be read, ProvenanceError where signatures do not
/// hold.
Answer audit_compare(const CompareConfig& config, const fs::path& a, const fs::path& b);

}  // namespace overproof
