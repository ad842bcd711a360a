#pragma once
// SHA-256 by the SHA extensions of x86 (Intel 64 and IA-32 Architectures Software Developer's Manual, SHA256RNDS2), several
// messages in lockstep: one message waits for its own last round most of the time, and the others fill that wait.

#include <cstddef>
#include <cstdint>

namespace overproof {

/// Messages that one step of the processor takes forward.
inline constexpr int kSha256Lanes = 4;

/// Compresses `blocks` blocks of 64 bytes into each of the states of eight words.
using Sha256Kernel = void (*)(uint32_t* const* states, const uint8_t* const* data, size_t blocks);

/// The kernel for `lanes` messages, 1 to kSha256Lanes; nullptr where the processor lacks the instructions.
Sha256Kernel sha256_ni_kernel(int lanes);

}  // namespace overproof
