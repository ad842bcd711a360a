#pragma once
// SHA-256 by the SHA extensions of x86 (Intel 64 and IA-32 Architectures Software Developer's Manual, SHA256RNDS2), several
// messages in lockstep: one message waits for its own last round most of the time, and the others fill that wait.

#include <cstddef>
#include <cstdint>

namespace overproof {

/// Messages that are hashed in lockstep. On a Zen 4 core: 1.81 GB/s with one (as OpenSSL), 3.3 with two, 3.9
/// with three; four, at 3.8, no longer fit into sixteen registers.
inline constexpr int kSha256Lanes = 3;

/// Compresses `blocks` blocks of 64 bytes into each of the states of eight words.
using Sha256Kernel = void (*)(uint32_t* const* states, const uint8_t* const* data, size_t blocks);

/// The kernel for `lanes` messages, 1 to kSha256Lanes; nullptr where the processor lacks the instructions.
Sha256Kernel sha256_ni_kernel(int lanes);

}  // namespace overproof
