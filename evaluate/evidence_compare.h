#pragma once
// `overproof audit compare A B`: runs every test of kinship between two models that the inputs suffice for. B is the suspect; A
// is a run, or an artifact or model that is said to be its parent or teacher.

#include <iosfwd>
#include <string>

#include "core/config.h"
#include "core/file.h"
#include "provenance/audit_record.h"
#include "provenance/key_rotation.h"

namespace overproof {

struct CompareConfig {
  std::string only, teacher, corpus, reference, score = "kl";
  int64_t windows = 2048, draws = 100000;
  std::string controls;
  int64_t prompts = 1024;
  int64_t neurons = 2048, weight_permutations = 199;
  std::string watermark_key, watermark_text;
  int64_t watermark_tokens = 65536;
  int64_t batch = 8, seed = 0;
  TrustOptions trust;
  RecordOptions record;
  template <class V>
  void visit(V&& v) {
    v("only", only, any_value(),
      "tests to run, a list of order, weights, agreement, radioactivity; empty: all that the inputs suffice for");
    v("teacher", teacher, any_value(), "order: whom KL is taken against; empty: the teacher of A's run");
    v("corpus", corpus, any_value(),
      "agreement, radioactivity: corpus whose held-out windows are the prompts; empty: that of A's run");
    v("reference", reference, any_value(),
      "order: a model that tells how hard a window is for anybody; empty: what A's training began with; none: nobody");
    v("score", score, one_of({"kl", "loss"}),
      "order: what is correlated, KL to the teacher or the loss on the text; without teacher, the loss");
    v("windows", windows, in_range(3, 1e7), "order: training windows to look at, at most");
    v("draws", draws, in_range(0, 1e9), "order: random pairings that confirm the p-value; 0: none");
    v("controls", controls, any_value(), "agreement: models unrelated to A, apart by commas, with the same tokenizer");
    v("prompts", prompts, in_range(1, 1e7), "agreement: prompts at most, one a held-out window");
    v("neurons", neurons, in_range(3, 65536), "weights: neurons of a layer to match, at most");
    v("weight-permutations", weight_permutations, in_range(0, 1e6),
      "weights: permutations of the residual stream; 0: leave that test out");
    v("watermark-key", watermark_key, any_value(), "radioactivity: the key that was planted in A's samples");
    v("watermark-text", watermark_text, any_value(),
      "radioactivity: a folder written by `sample`; empty: held-out windows, which finds less");
    v("watermark-tokens", watermark_tokens, in_range(1, 1e9), "radioactivity: tokens of text to show the suspect, at most");
    v("batch", batch, in_range(1, 4096), "windows in one forward pass");
    v("seed", seed, in_range(0, 9007199254740991.0), "of random pairings and permutations");
    trust.visit(v);
    record.visit(v);
  }
};

/// Prints what each test found, or why it could not be run; with `json` one object {"a", "b", "tests"}. Returns 0: a comparison
/// is no verdict, and nothing that it finds is a fault. A record belongs to the run of A, or of B where A is a lone model. Throws
/// UsageError where an option cannot be meant, FormatError and IoError on models that cannot be read.
int audit_compare(const CompareConfig& config, const fs::path& a, const fs::path& b, bool json, std::ostream& out);

}  // namespace overproof
