#pragma once
// Signing keys: ECDSA over P-256, P-384 or P-521 in PEM, as OpenSSF Model Signing takes them (Ed25519 is refused there).
// The digest follows the curve: SHA-256, SHA-384, SHA-512. Signatures are DER (SEC 1, X9.62) and randomised: signing the
// same bytes twice gives two signatures, so nothing that must be reproducible may contain one.

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/file.h"

struct evp_pkey_st;

namespace overproof {

enum class Curve { p256, p384, p521 };
const char* curve_name(Curve curve);  ///< "P-256", ...

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

  /// Keys to be taken for this one (provenance/key_rotation.h): the one with that hint, else this one.
  const PublicKey& successor(std::string_view hint) const;
  void add_successor(const PublicKey& key);

 private:
  friend class Key;
  friend class PkeySigner;
  explicit PublicKey(std::shared_ptr<evp_pkey_st> key, const fs::path& origin);
  std::shared_ptr<evp_pkey_st> key_;
  std::string pem_, hint_;
  Curve curve_;
  std::vector<PublicKey> successors_;
};

/// Where the passphrase of an encrypted key, or the PIN of a token, comes from. Asked only when there is need of one.
using PassphraseSource = std::function<std::optional<std::string>(const std::string& key)>;

/// $OVERPROOF_KEY_PASSPHRASE, else a question on the terminal that started the program, without echo; nothing where there is
/// none.
PassphraseSource passphrase_from_user();
/// The first line of a file. Throws ProvenanceError when users other than its owner may read it, FormatError when it is empty.
PassphraseSource passphrase_from_file(const fs::path& file);
/// Asks twice on a terminal: for a new key. Throws UsageError when there is none to be had, or an empty one.
std::string new_passphrase(const PassphraseSource& source, const std::string& key);

/// Makes the signatures of a Key.
class Signer {
 public:
  virtual ~Signer() = default;
  virtual std::string sign(std::string_view message) const = 0;
  virtual std::string private_pem(std::string_view passphrase) const = 0;
};

class Key {
 public:
  static Key generate(Curve curve = Curve::p256);
  /// Throws ProvenanceError when users other than its owner may read the file, UsageError when it is encrypted and the passphrase is
  /// missing or wrong, FormatError when it is no such key, with the reason.
  static Key read(const fs::path& file, const PassphraseSource& passphrase = passphrase_from_user());
  /// A key that OpenSSL finds by its URI: "pkcs11:token=...;object=..." where a provider for it is configured, "file:...". The
  /// private key need not leave its token. Throws UsageError when nothing answers to the URI, or more than one key.
  static Key open_uri(const std::string& uri, const PassphraseSource& passphrase = passphrase_from_user());
  /// Signatures by a program: it is given what is to be signed (not its digest) on standard input, and writes the DER signature,
  /// ECDSA with the digest of the curve, to standard output. It runs without a shell; `command` is split at spaces, and quotes
  /// hold words together. What it returns is verified before it is used. sign() throws ProvenanceError when it fails, takes
  /// longer than `timeout`, or returns anything else.
  static Key by_command(const std::string& command, PublicKey key, std::chrono::milliseconds timeout);

  const PublicKey& public_key() const { return public_key_; }
  std::string sign(std::string_view message) const { return signer_->sign(message); }  ///< DER
  /// PKCS #8; with a passphrase: encrypted (PBES2: PBKDF2 with HMAC-SHA-256, 600,000 rounds, AES-256-CBC). Throws UsageError
  /// when the key is not ours to give.
  std::string private_pem(std::string_view passphrase = {}) const { return signer_->private_pem(passphrase); }

 private:
  Key(std::shared_ptr<const Signer> signer, PublicKey key) : signer_(std::move(signer)), public_key_(std::move(key)) {}
  static Key of(std::shared_ptr<evp_pkey_st> key, const fs::path& origin);
  std::shared_ptr<const Signer> signer_;
  PublicKey public_key_;
};

/// $OVERPROOF_KEY, else ${XDG_CONFIG_HOME:-~/.config}/overproof/signing-key.pem. Throws UsageError when no home is known.
fs::path default_key_path();

/// Whether a key is named by a URI ("pkcs11:...") instead of a file.
bool is_key_uri(const std::string& name);

/// Reads the key, or makes a P-256 one: mode 0600, in folders of mode 0700 where they are new. Two processes that start
/// together end with the same key. A URI is opened, and nothing is made there.
Key load_or_create_key(const fs::path& file = default_key_path(), const PassphraseSource& passphrase = passphrase_from_user());

/// Writes a private key into a file that must not exist yet, mode 0600. False when it does.
bool create_key_file(const fs::path& file, std::string_view private_pem);

/// Options of verbs that sign: which key signs.
struct KeyOptions {
  std::string key, sign_with;  ///< `key` may be a URI
  fs::path key_passphrase_file, public_key_of;
  int64_t sign_timeout = 120;
  template <class V>
  void visit(V&& v) {
    v("key", key, any_value(),
      "signing key: a PEM file, made at first use, or a URI for OpenSSL (pkcs11:...); empty: $OVERPROOF_KEY or the user's own");
    v("key-passphrase-file", key_passphrase_file, any_value(),
      "file with the passphrase of an encrypted key; else $OVERPROOF_KEY_PASSPHRASE, else you are asked");
    v("sign-with", sign_with, any_value(),
      "program that signs instead of a key: bytes on its standard input, DER signature on its output");
    v("public-key-of", public_key_of, any_value(), "public key (PEM) of the program's signatures, to check them by");
    v("sign-timeout", sign_timeout, in_range(1, 86400), "seconds that the program may take for a signature");
  }
  PassphraseSource passphrase() const;
};

/// Throws UsageError when the options contradict each other, and as the functions above.
Key open_key(const KeyOptions& options);

}  // namespace overproof
