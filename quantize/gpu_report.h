#pragma once
// What `overproof gpu` prints: the plugin, the devices, and whether they compute what the CPU computes.

#include <iosfwd>

#include "core/config.h"

namespace overproof {

struct GpuConfig {
  bool self_test = false;
  template <class V>
  void visit(V&& v) {
    v("self-test", self_test, any_value(), "compare every kernel with the CPU, code for code, on each device");
  }
};

/// Lists plugin and devices, or says plainly what is missing. Returns 0; with `self_test` 1 when a device differs from the CPU
/// and 5 when nothing was run.
int run_gpu(const GpuConfig& config, bool json, std::ostream& out);

}  // namespace overproof
