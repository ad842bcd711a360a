#pragma once
// HMAC-SHA256 (RFC 2104), by OpenSSL.

#include <cstdint>
#include <span>

#include "core/digest.h"

namespace overproof {

Digest hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> message);

}  // namespace overproof
