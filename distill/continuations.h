#pragma once
// Sequences that a student writes on, several at a time.

#include <cstdint>
#include <set>
#include <vector>

#include "core/rng.h"
#include "model/generator.h"

namespace overproof {

class Decoder;

struct Continuation {
  std::vector<int32_t> ids;  ///< what there is; what is drawn is added
  size_t seen = 0;           ///< the student sees ids from here on
  int64_t room = 0;          ///< ids that it may still write
  Rng rng;
  KvCache cache = {};
};

/// Draws ids until each has no room or ends with one of `ends`. `temperature` 0: the most probable id. Takes a copy of the weights in memory.
/// Throws DivergenceError when the student's logits are not finite, Interrupted.
void write_on(const Decoder& student, std::vector<Continuation>& all, const std::set<int32_t>& ends, double temperature);

}  // namespace overproof
