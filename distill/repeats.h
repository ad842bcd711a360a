#pragma once
// Where the student repeats itself in what it wrote.

#include <cstdint>
#include <vector>

#include "data/token_batch.h"

namespace overproof {

/// For the sequences [first, first + count) of a batch, [count x length]: 1 where the label completes `run` labels in a row that count in the
/// loss, are of one segment, and have come up before among such; else 0. Of a batch that the student wrote these are what it wrote. Costs length x run a
/// sequence, times the logarithm of the length.
std::vector<float> repeated_labels(const TokenBatch& batch, int64_t first, int64_t count, int64_t run);

}  // namespace overproof
