#pragma once
// Counts, while a model is trained, which experts the tokens of each source are sent to (records/router_counts.h).

#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "records/router_counts.h"
#include "model/decoder.h"

namespace overproof {

/// The source of each token of a corpus, by number.
class TokenSources {
 public:
  explicit TokenSources(const Corpus& corpus);                      ///< which must outlive this
  const std::vector<std::string>& names() const { return names_; }  ///< ascending
  /// Of the window's inputs; out.size() is the window length.
  void read_window(Split split, int64_t window, std::span<int32_t> out) const;

 private:
  const Corpus& corpus_;
  std::vector<std::string> names_;
  std::vector<int32_t> source_of_;  // beside corpus_.documents()
};

class RouterCounter {
 public:
  /// Throws UsageError when the counts would take more than 4 GB.
  RouterCounter(std::vector<std::string> sources, int64_t layers, int64_t experts);

  /// One forward pass: a record a layer, with `selected` I32 [tokens, top_k]; the source of each of its tokens.
  void add(const std::vector<RouterRecord>& routing, std::span<const int32_t> token_sources);

  /// "router_counts" I64 [sources, layers, experts] and "router_tokens" I64 [sources], the counter's own: part of what a
  /// resumed run needs.
  std::vector<NamedTensor> state() const { return {{"router_counts", counts_}, {"router_tokens", tokens_}}; }
  RouterCounts result() const;

 private:
  std::vector<std::string> sources_;
  at::Tensor counts_, tokens_;
};

/// Writes what was counted on top of what the model that came in had behind it.
void write_router_counts(OutputFolder& folder, const RouterCounter& counter, const fs::path& trained_from);

}  // namespace overproof
