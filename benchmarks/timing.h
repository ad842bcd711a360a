#pragma once
// What the benchmarks measure with.

#include <chrono>
#include <functional>

namespace overproof {

/// By the clock.
inline double seconds_of(const std::function<void()>& work) {
  const auto started = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace overproof
