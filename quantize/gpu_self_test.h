#pragma once
// Compares the GPU with the CPU: every kernel code for code, every matrix product against the reference. What runs is what runs
// for users, through the same calls; tests run it over an emulated device.

#include <cstdint>
#include <string>
#include <vector>

#include "quantize/gpu.h"

namespace overproof {

struct GpuCheck {
  std::string name;      ///< "int8 per row of bf16 [3, 577]"
  int64_t compared = 0;  ///< codes, scales or sums
  int64_t different = 0;
  double worst = 0;  ///< products: largest error in parts of what is allowed; 1 is the limit
  std::string note;  ///< how it was computed; the driver's words when it could not be
  bool passed = false;
};

enum class GpuParts { all, codes, products };

/// Runs the checks on one device. Failing calls are findings, not exceptions.
std::vector<GpuCheck> gpu_self_test(GpuSession& gpu, GpuParts parts = GpuParts::all);

}  // namespace overproof
