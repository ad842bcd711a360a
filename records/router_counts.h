#pragma once
// Router counts: how many tokens of each source the router sent to every routed expert, in all training steps that led to an
// artifact.
//
//   routing/router_counts.safetensors
//     counts  I64 [sources, layers, experts]  tokens of a source that a layer's router sent to an expert; a token counts once
//                                             for each of the top-k experts that it was sent to
//     tokens  I64 [sources]                   tokens of a source that were trained on; each passes every layer
//   metadata: sources (a JSON list of names, ascending), format_version
//
// A token's source is that of its document (Document::source). The file has a folder of its own because vLLM loads every
// *.safetensors next to config.json as weights.
// Counts are exact. What they imply for a single document is an estimate.

#include <cstdint>
#include <string>
#include <vector>

#include "core/file.h"

namespace overproof {

inline constexpr char kRouterCountsFile[] = "routing/router_counts.safetensors";

struct RouterCounts {
  std::vector<std::string> sources;  ///< ascending, each once
  int64_t layers = 0, experts = 0;
  std::vector<int64_t> tokens;  ///< [sources]
  std::vector<int64_t> counts;  ///< [sources, layers, experts]

  int64_t at(int64_t source, int64_t layer, int64_t expert) const {
    return counts[size_t((source * layers + layer) * experts + expert)];
  }
  int64_t of_expert(int64_t layer, int64_t expert) const;  ///< of all sources
  int64_t of_source(int64_t source, int64_t layer) const;  ///< to all experts
  int64_t all_tokens() const;
  /// Fraction of an expert's tokens that came from a source, in [0, 1]; 0 for an expert without tokens.
  double mass(int64_t source, int64_t layer, int64_t expert) const;
  /// Index of a source. Throws UsageError with the nearest name.
  int64_t find(const std::string& source) const;
};

/// True when the artifact has counts.
bool has_router_counts(const fs::path& artifact);
/// Throws IoError when the file is missing, FormatError for wrong shapes, negative counts and sums above 2^63 - 1.
RouterCounts read_router_counts(const fs::path& artifact);
/// The same of one file.
RouterCounts read_router_counts_file(const fs::path& file);
void write_router_counts(OutputFolder& folder, const RouterCounts& counts);

/// Sums of both, by names of sources. Throws MismatchError when numbers of layers or experts differ, or a sum exceeds 2^63 - 1.
RouterCounts add_router_counts(const RouterCounts& a, const RouterCounts& b);

}  // namespace overproof
