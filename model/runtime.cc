#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <unistd.h>
#include <cstdlib>

#include "core/parallel.h"
#include "model/decoder.h"

namespace overproof {

void ensure_passive_waiting(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY")) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);
  // Not being able to start again costs speed only.
}

void prepare_torch() {
  at::set_num_threads(int(thread_count()));
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Filling fresh memory with NaN would hide nothing here and costs a pass over every tensor.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

}  // namespace overproof
