#pragma once
// Signing keys: ECDSA over P-256, P-384 or P-521 in PEM, as OpenSSF Model Signing takes them (Ed25519 is refused there).
// The digest follows the curve: SHA-256, SHA-384, SHA-512. Signatures are DER (SEC 1, X9.62) and randomised: signing the
// same bytes twice gives two signatures, so nothing that must be reproducible may contain one.

#include <memory>
#include <string>
#include <string_view>

#include "core/file.h"

struct evp_pkey_st;

namespace overproof {

enum class Curve { p256, p384, p521 };

class PublicKey {
 public:
  /// `origin` is for messages. Throws FormatError unless the text is an EC public key over one of the three curves.
  static PublicKey from_pem(std::string_view pem, const fs::path& origin);
  static PublicKey read(const fs::path& file);

  const std::string& pem() const { return pem_; }    ///< SubjectPublicKeyInfo, re-encoded: one text for one key
  const std::string& hint() const { return hint_; }  ///< 64 hex digits: SHA-256 of pem()
  Curve curve() const { return curve_; }
  bool verify(std::string_view message, std::string_view signature) const;
  bool operator==(const PublicKey& other) const { return pem_ == other.pem_; }

 private:
  friend class Key;
  explicit PublicKey(std::shared_ptr<evp_pkey_st> key, const fs::path& origin);
  std::shared_ptr<evp_pkey_st> key_;
  std::string pem_, hint_;
  Curve curve_;
};

class Key {
 public:
  static Key generate(Curve curve = Curve::p256);
  /// Throws ProvenanceError when anyone but its owner may read the file, FormatError when it is no such key.
  static Key read(const fs::path& file);

  const PublicKey& public_key() const { return public_key_; }
  std::string sign(std::string_view message) const;  ///< DER
  std::string private_pem() const;                   ///< PKCS #8, not encrypted

 private:
  explicit Key(std::shared_ptr<evp_pkey_st> key, const fs::path& origin);
  std::shared_ptr<evp_pkey_st> key_;
  PublicKey public_key_;
};

/// $OVERPROOF_KEY, else ${XDG_CONFIG_HOME:-~/.config}/overproof/signing-key.pem. Throws UsageError when no home is known.
fs::path default_key_path();

/// Reads the key, or makes a P-256 one: mode 0600, in folders of mode 0700 where they are new. Two processes that start
/// together end with the same key.
Key load_or_create_key(const fs::path& file = default_key_path());

}  // namespace overproof
