#include "provenance/dsse.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include "core/error.h"
#include "core/json.h"
#include "core/json_object.h"

namespace overproof {
std::string pre_authentication_encoding(std::string_view payload_type, std::string_view payload) {
  std::string text = fmt::format("DSSEv1 {} {} {} ", payload_type.size(), payload_type, payload.size());
  text.append(payload);
  return text;
}

Envelope sign_envelope(std::string_view payload_type, std::string payload, const Key& key, std::string key_id) {
  std::string signature = key.sign(pre_authentication_encoding(payload_type, payload));
  return {std::string(payload_type), std::move(payload), std::move(key_id), std::move(signature)};
}

bool Envelope::verify(const PublicKey& key) const {
  return key.verify(pre_authentication_encoding(payload_type, payload), signature);
}

Json Envelope::to_json() const {
  return {{"payload", base64_encode(payload)},
          {"payloadType", payload_type},
          {"signatures", Json::array({{{"keyid", key_id}, {"sig", base64_encode(signature)}}})}};
}

Envelope Envelope::from_json(const Json& json, const fs::path& origin) {
  const JsonObject object(json, origin, "envelope");
  object.expect_only({"payload", "payloadType", "signatures"});
  const std::vector<JsonObject> signatures = object.objects("signatures");
  if (signatures.size() != 1) object.fail("signatures", "must hold exactly one signature");
  signatures[0].expect_only({"keyid", "sig"});
  Envelope envelope;
  envelope.payload_type = object.text("payloadType");
  envelope.payload = base64_decode(object.text("payload"), origin);
  envelope.signature = base64_decode(signatures[0].text("sig"), origin);
  envelope.key_id = signatures[0].text("keyid", "");
  return envelope;
}

std::string base64_encode(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // OpenSSL ends it with a NUL
  const int written = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                      reinterpret_cast<const unsigned char*>(bytes.data()), int(bytes.size()));
  text.resize(size_t(written));
  return text;
}

std::string base64_decode(std::string_view text, const fs::path& origin) {
  std::string bytes(text.size() / 4 * 3, '\0');
  const int written = text.size() % 4 ? -1
                                      : EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                                        reinterpret_cast<const unsigned char*>(text.data()), int(text.size()));
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  if (written >= int(padding)) {
    bytes.resize(size_t(written) - padding);
    if (base64_encode(bytes) == text) return bytes;
  }
  throw FormatError(origin, -1, "envelope: not base64");
}

}  // namespace overproof
