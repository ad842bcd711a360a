#include "model/torch_setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <unistd.h>
#include <cstdlib>

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

}  // namespace overproof
