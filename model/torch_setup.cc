#include "model/torch_setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <limits>

#include "core/parallel.h"
#include "model/ops/products.h"

namespace overproof {

void ensure_passive_waiting(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY")) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);
  // If the restart fails, the program runs on as it is: slower, not wrong.
}

void prepare_torch() {
  at::set_num_threads(int(thread_count()));
  ops::set_product_type(ops::ProductType::f32);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Filling fresh memory with NaN would find no error here, and costs a pass over every tensor.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

KeepFreedMemory::KeepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

KeepFreedMemory::~KeepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 65536);  // glibc's defaults
  mallopt(M_TRIM_THRESHOLD, 128 * 1024);
  malloc_trim(0);
#endif
}

}  // namespace overproof
