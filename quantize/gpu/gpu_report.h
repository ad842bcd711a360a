#pragma once
// What `overproof gpu` reports: the plugin, the devices, and whether they compute what the CPU computes.

#include "core/answer.h"
#include "core/config.h"

namespace overproof {

struct GpuConfig {
  bool self_test = false;
  template <class V>
  void visit(V&& v) {
    v("self-test", self_test, any_value(), "compare every kernel with the CPU, code for code, on each device");
  }
};

/// Lists the plugin and the devices, or what is missing. JSON: {plugin, devices, reason, self_test}. Exit code 0; with `self_test`
/// 1 when a device differs from the CPU and 5 when there was no device to test.
Answer run_gpu(const GpuConfig& config);

}  // namespace overproof
