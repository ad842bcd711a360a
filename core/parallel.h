#pragma once
// Data-parallel loops over oneTBB. The cut into chunks depends on `grain` alone, never on the number of threads, so a
// result built per chunk is the same on any machine.

#include <cstdint>
#include <functional>

namespace overproof {

/// Threads used by parallel_for and (through the model layer) libtorch. 0 means all cores the process may use.
void set_thread_count(int64_t threads);
int64_t thread_count();

/// Calls body(begin, end) for [0, n) cut into pieces of `grain`. Exceptions reach the caller. Loops may be nested.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

/// Calls body(i) for each of [0, n) on more threads than there are cores: for bodies that mostly wait for pages of a mapped file,
/// because a disk serves many reads at once faster than one after another. Throws the exception of the least i that threw.
void wait_in_parallel(int64_t n, const std::function<void(int64_t i)>& body);

}  // namespace overproof
