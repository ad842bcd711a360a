#pragma once
// Timing for benchmarks.

#include <chrono>
#include <functional>

namespace overproof {

/// Wall time.
inline double seconds_of(const std::function<void()>& work) {
  const auto started = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace overproof
