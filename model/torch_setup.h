#pragma once
// How libtorch runs in this process. No libtorch header here, so that main() can include it.

namespace overproof {

/// Sets libtorch's thread count to core/parallel.h's, turns on deterministic algorithms, and sets products in f32. Every stage and verb that computes with
/// tensors calls it first: the results of a matrix product may depend on the number of threads.
void prepare_torch();

/// libtorch's OpenMP threads spin while they wait, which on shared cores makes two threads slower than one. The library
/// reads OMP_WAIT_POLICY when it is loaded, before main(): unless the variable is set, sets it to "passive" and starts
/// this program again. Call it first in main().
void ensure_passive_waiting(char** argv);

/// As long as one exists, memory that tensors free stays with the process and is used again. Otherwise the C library gives each large
/// tensor back and the system clears its pages for the next one, which took about a tenth of a bf16 step. At the end all is given back.
class KeepFreedMemory {
 public:
  KeepFreedMemory();
  ~KeepFreedMemory();
  KeepFreedMemory(const KeepFreedMemory&) = delete;
  KeepFreedMemory& operator=(const KeepFreedMemory&) = delete;
};

}  // namespace overproof
