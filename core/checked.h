#pragma once
// Checked arithmetic for sizes that come from a file.

#include <concepts>
#include <cstdint>
#include <optional>

namespace overproof {

/// a * b, or nothing when it does not fit.
template <std::integral T>
constexpr std::optional<T> checked_mul(T a, T b) {
  T r{};
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

/// a + b, or nothing when it does not fit.
template <std::integral T>
constexpr std::optional<T> checked_add(T a, T b) {
  T r{};
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

}  // namespace overproof
