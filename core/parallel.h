#pragma once
// Data-parallel loops, over oneTBB or over the threads of another library that computes in the same process. The cut into chunks depends
// on `grain` alone, never on the number of threads, so a result built per chunk is the same on any machine.

#include <cstdint>
#include <functional>

namespace overproof {

/// Threads used by parallel_for and (through the model layer) libtorch. 0 means all cores the process may use.
void set_thread_count(int64_t threads);
int64_t thread_count();

/// Calls `work` on up to `threads` threads at once, this one among them, and returns when all calls have; one call is enough, because
/// each takes pieces until none is left.
using TeamRunner = void (*)(int64_t threads, const std::function<void()>& work);
/// Makes parallel_for use the threads of another library: two sets of threads on the same cores wait for each other. nullptr: oneTBB.
void set_team_runner(TeamRunner runner);

/// How long a thread of libtorch's OpenMP spins for the next loop before it sleeps: sets the environment to about a millisecond, for
/// programs that start after this. Sleeping at once made a training step 7 % slower, and spinning until the next loop makes two
/// threads slower than one where other programs use the cores. False when the user has set GOMP_SPINCOUNT or OMP_WAIT_POLICY.
bool set_short_waiting();

/// Calls body(begin, end) for [0, n) cut into pieces of `grain`. Exceptions reach the caller. Loops may be nested.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

/// Calls body(i) for each of [0, n) on more threads than there are cores: for bodies that mostly wait for pages of a mapped file,
/// because a disk serves many reads at once faster than one after another. Throws the exception of the least i that threw.
void wait_in_parallel(int64_t n, const std::function<void(int64_t i)>& body);

}  // namespace overproof
