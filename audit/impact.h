#pragma once
// `overproof audit impact`: which experts a source of the corpus shaped most, and which sources shaped an expert, from the router
// counts of training (records/router_counts.h). Counts show which tokens an expert was trained on. They do not show what it learnt
// from them, and nothing about attention, norms, embeddings and shared experts, which all tokens train.

#include <string>
#include <vector>

#include "audit/trace.h"
#include "core/answer.h"
#include "core/config.h"
#include "core/json_fwd.h"
#include "records/router_counts.h"

namespace overproof {

struct ImpactConfig {
  std::string source, expert, artifact;
  int64_t top = 3;
  VerifyFiles verify = VerifyFiles::yes;
  TrustOptions trust;
  template <class V>
  void visit(V&& v) {
    v("source", source, any_value(), "a source of the corpus: the experts of each layer that it shaped most");
    v("expert", expert, any_value(), "LAYER:EXPERT, counted from 0: the sources that shaped it most");
    v("artifact", artifact, any_value(),
      "whose router counts; empty: of the one that was trained on the most tokens, the oldest of equals");
    v("top", top, in_range(1, 1e6), "how many are listed: experts of each layer, or sources");
    v("verify", verify, verify_names(), "what must hold before an answer is given, as for audit trace");
    trust.visit(v);
  }
};

struct ImpactRow {
  std::string source;
  int64_t layer = 0, expert = 0;
  int64_t tokens = 0;  ///< of the source, sent to the expert
  double mass = 0;     ///< share of the expert's tokens that came from the source
  double share = 0;    ///< share of what the layer's router did with the source's tokens that went to the expert
  double lift =
      0;  ///< mass over the share of the layer's tokens that came from the source; 1 when the router is blind to sources
};

struct Impact {
  std::string artifact;
  RouterCounts counts;
  std::vector<ImpactRow> rows;  ///< by layer, then by mass (of one expert: by mass); empty when neither was asked for
};

/// Throws UsageError when no artifact keeps counts, or there is no such source or expert; ProvenanceError when the run does not
/// hold.
Impact find_impact(const fs::path& folder, const ImpactConfig& config);

/// The `top` experts of each layer by the mass of `source`. Of equals the earlier.
std::vector<ImpactRow> experts_of_source(const RouterCounts& counts, int64_t source, int64_t top);
/// The `top` sources of an expert by mass; those that sent it nothing are left out.
std::vector<ImpactRow> sources_of_expert(const RouterCounts& counts, int64_t layer, int64_t expert, int64_t top);

Answer audit_impact(const ImpactConfig& config, const fs::path& folder);

}  // namespace overproof
