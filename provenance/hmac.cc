#include "provenance/hmac.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "core/error.h"

namespace overproof {

Digest hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> message) {
  Digest digest;
  unsigned length = 0;
  const uint8_t none = 0;  // OpenSSL takes a null pointer for "the key of the call before"
  OVERPROOF_CHECK(HMAC(EVP_sha256(), key.empty() ? &none : key.data(), int(key.size()), message.data(), message.size(),
                       digest.bytes.data(), &length) &&
                  length == digest.bytes.size());
  return digest;
}

}  // namespace overproof
