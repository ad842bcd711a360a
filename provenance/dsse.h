#pragma once
// DSSE, the Dead Simple Signing Envelope v1 (https://github.com/secure-systems-lab/dsse): a payload, its type, and
// signatures over both. Here an envelope has exactly one signature.

#include <string>
#include <string_view>

#include "core/json_fwd.h"
#include "provenance/keys.h"

namespace overproof {

inline constexpr std::string_view kInTotoPayloadType = "application/vnd.in-toto+json";

struct Envelope {
  std::string payload_type;
  std::string payload;
  std::string key_id;     ///< PublicKey::hint(), or "" where the hint is elsewhere (OMS bundles)
  std::string signature;  ///< DER

  bool verify(const PublicKey& key) const;
  Json to_json() const;
  /// Strict, so that no bit of an envelope is without meaning: exactly the known fields, one signature, canonical base64.
  /// Throws FormatError naming `origin`.
  static Envelope from_json(const Json& object, const fs::path& origin);
};

/// "DSSEv1 <len> <type> <len> <payload>": what is signed.
std::string pre_authentication_encoding(std::string_view payload_type, std::string_view payload);

Envelope sign_envelope(std::string_view payload_type, std::string payload, const Key& key, std::string key_id);

std::string base64_encode(std::string_view bytes);
/// Standard alphabet with padding; refuses what base64_encode would not have written. Throws FormatError naming `origin`.
std::string base64_decode(std::string_view text, const fs::path& origin);

}  // namespace overproof
