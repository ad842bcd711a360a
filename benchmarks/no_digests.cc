// Linked instead of core/sha256_ni.cc into a program that digests nothing: what it makes is worthless, but how long it takes
// shows what digests cost the real one.

#include "core/sha256_ni.h"

namespace overproof {

Sha256Kernel sha256_ni_kernel(int) {
  return [](uint32_t* const*, const uint8_t* const*, size_t) {};
}

}  // namespace overproof
