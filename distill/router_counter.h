#pragma once
// Counts, while a model is trained, which experts the tokens of each source are sent to (records/router_counts.h).

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/group.h"
#include "model/decoder.h"
#include "records/router_counts.h"

namespace overproof {

class RouterCounter {
 public:
  /// Throws MismatchError when the counts would take more than 4 GB.
  RouterCounter(std::vector<std::string> sources, int64_t layers, int64_t experts,
                std::shared_ptr<const Group> group = single_process_group());

  /// One forward pass: a record a layer, with `selected` I32 [tokens, top_k]; the source of each of its tokens.
  void add(const std::vector<RouterRecord>& routing, std::span<const int32_t> token_sources);
  /// Adds up what all ranks counted since the last call. Each rank calls it after its part of a step.
  void finish_step();

  /// "router_counts" I64 [sources, layers, experts] and "router_tokens" I64 [sources], the counter's own tensors: part of what a
  /// resumed run needs. Complete after finish_step().
  std::vector<NamedTensor> state() const { return {{"router_counts", counts_}, {"router_tokens", tokens_}}; }
  RouterCounts result() const;

 private:
  std::vector<std::string> sources_;
  std::shared_ptr<const Group> group_;
  at::Tensor counts_, tokens_;
  at::Tensor step_counts_, step_tokens_;  // of this rank since finish_step(); in one process the same tensors
};

/// Writes the counts, added to those of the model that was trained on.
void write_router_counts(OutputFolder& folder, const RouterCounter& counter, const fs::path& trained_from);

}  // namespace overproof
