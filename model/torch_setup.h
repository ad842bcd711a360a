#pragma once
// How libtorch runs in this process. No libtorch header here, so that main() can include it.

namespace overproof {

/// Sets libtorch's thread count to core/parallel.h's, turns on deterministic algorithms, and sets products in f32. Every stage and verb that computes with
/// tensors calls it first: the results of a matrix product may depend on the number of threads.
void prepare_torch();

/// Calls set_short_waiting() and, if that changed anything, starts this program again: OpenMP reads the variables when it is loaded,
/// before main(). Call it first in main().
void ensure_short_waiting(char** argv);

/// As long as one exists, memory that tensors free stays with the process and is used again. Otherwise the C library gives each large
/// tensor back and the system clears its pages for the next one, which took about a tenth of a bf16 step. At the end all is given back.
class KeepFreedMemory {
 public:
  KeepFreedMemory();
  ~KeepFreedMemory();
  KeepFreedMemory(const KeepFreedMemory&) = delete;
  KeepFreedMemory& operator=(const KeepFreedMemory&) = delete;
};

/// As long as one exists, libtorch computes with one thread: its factorisations, its sums, and products outside of the operators of
/// model/ops give other bits with another number of threads. In a parallel loop it has one anyway.
class OneTorchThread {
 public:
  OneTorchThread();
  ~OneTorchThread();
  OneTorchThread(const OneTorchThread&) = delete;
  OneTorchThread& operator=(const OneTorchThread&) = delete;

 private:
  int before_;
};

}  // namespace overproof
