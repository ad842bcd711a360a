// Replaces core/sha256_ni.cc in a program that computes no digests: its output is invalid, but its run time shows the cost of
// digests.

#include "core/sha256_ni.h"

namespace overproof {

Sha256Kernel sha256_ni_kernel(int) {
  return [](uint32_t* const*, const uint8_t* const*, size_t) {};
}

}  // namespace overproof
