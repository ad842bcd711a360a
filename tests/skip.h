#pragma once
// Test cases that need hardware which a machine may lack. A case that could not run has not passed: it calls SKIP_CASE, and CTest
// shows it as skipped.
//
//   TEST_CASE("AVX2 kernels equal the scalar reference", "[hardware-avx2]") {
//     if (!avx2_row_kernels()) SKIP_CASE("this processor has no AVX2");
//
// CTest runs each tag [hardware-...] of a file as a test of its own, so that a skip does not hide the other cases of the file
// (cmake/OverproofTargets.cmake).

#include <iostream>

namespace overproof {

inline constexpr int kSkippedExitCode = 77;  // of the test program when a case was skipped and none failed
inline int skipped_cases = 0;

}  // namespace overproof

#define SKIP_CASE(reason)                       \
  do {                                          \
    std::cout << "skipped: " << reason << "\n"; \
    ++::overproof::skipped_cases;               \
    return;                                     \
  } while (false)
