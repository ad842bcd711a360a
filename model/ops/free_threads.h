#pragma once
// Inside model/ops: a loop whose bodies take unequal time.

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <atomic>
#include <cstdint>

namespace overproof::ops::cpu {

/// Calls body(i) for i in [0, n), each on one thread, whichever is free. Who computes one must not change what is computed.
template <class Body>
void for_each_on_free_thread(int64_t n, const Body& body) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;  // worker threads have their own dispatch state
    for (int64_t i; (i = next.fetch_add(1)) < n;) body(i);
  });
}

}  // namespace overproof::ops::cpu
