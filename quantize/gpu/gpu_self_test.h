#pragma once
// Compares the GPU with the CPU: every kernel code for code, every matrix product with the reference. Uses the same calls as
// `quantize`; tests run it on an emulated device.

#include <cstdint>
#include <string>
#include <vector>

#include "quantize/gpu/gpu.h"

namespace overproof {

struct GpuCheck {
  std::string name;      ///< "int8 per row of bf16 [3, 577]"
  int64_t compared = 0;  ///< codes, scales or sums
  int64_t different = 0;
  double worst = 0;  ///< products: largest error as a fraction of the allowed one
  std::string note;  ///< how it was computed, or the driver's message when that failed
  bool passed = false;
};

enum class GpuParts { all, codes, products };

/// Runs the checks on one device. A failing call is a failed check, not an exception.
std::vector<GpuCheck> gpu_self_test(GpuSession& gpu, GpuParts parts = GpuParts::all);

}  // namespace overproof
