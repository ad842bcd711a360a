#pragma once
// Copies tensors of a checkpoint row by row, leaving some out: what every stage of pruning does. Memory does not grow with the model.

#include <cstdint>
#include <vector>

#include "formats/sharded.h"
#include "formats/tensor_source.h"

namespace overproof {

inline constexpr int64_t kPrunedBlockElements = int64_t{1} << 20;  ///< in memory at a time, in f32

/// Writes the rows of `tensor` to `writer`: all of them, or those of `picked` in that order; -1 gives a row of the value `empty`.
/// The writer's current tensor has as many rows. Throws DivergenceError when its dtype cannot hold a value.
void write_rows(const TensorSource& source, const TensorInfo& tensor, const std::vector<int64_t>* picked, float empty,
                ShardedWriter& writer);

/// config.json, and the tokenizer and generation_config.json of the checkpoint at `from`.
void write_pruned_config(const fs::path& from, const Json& config, OutputFolder& folder);

}  // namespace overproof
