#include "model/torch_setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <malloc.h>
#include <unistd.h>

#include <limits>

#include "core/parallel.h"
#include "model/ops/products.h"

#ifndef INTRA_OP_PARALLEL
#error "compiled without OpenMP: at::parallel_for would be a plain loop"
#endif

namespace overproof {

void ensure_short_waiting(char** argv) {
  if (set_short_waiting()) execv("/proc/self/exe", argv);
  // If the restart fails, the program runs on as it is: slower, not wrong.
}

namespace {

void run_on_torch_threads(int64_t threads, const std::function<void()>& work) {
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(); });
}

}  // namespace

void prepare_torch() {
  at::set_num_threads(int(thread_count()));
  set_team_runner(run_on_torch_threads);
  ops::set_product_type(ops::ProductType::f32);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Filling fresh memory with NaN would find no error here, and costs a pass over every tensor.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

KeepFreedMemory::KeepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_MXFAST, 0);  // else every large request first collects the small blocks that were freed: 2 % of a step
#endif
}

KeepFreedMemory::~KeepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 65536);  // glibc's defaults
  mallopt(M_TRIM_THRESHOLD, 128 * 1024);
  mallopt(M_MXFAST, 64 * sizeof(size_t) / 4);
  malloc_trim(0);
#endif
}

OneTorchThread::OneTorchThread() : before_(at::in_parallel_region() ? 0 : at::get_num_threads()) {
  if (before_ > 1) at::set_num_threads(1);
}

OneTorchThread::~OneTorchThread() {
  if (before_ > 1) at::set_num_threads(before_);
}

}  // namespace overproof
