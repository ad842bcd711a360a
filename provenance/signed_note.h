#pragma once
// C2SP signed notes (https://c2sp.org/signed-note) with Ed25519 (RFC 8032), and the checkpoints
// (https://c2sp.org/tlog-checkpoint) in them: how the root of a tree is signed so that the tools of transparency logs read it.
//
// The note key is a key of its own, next to the signing key, in the file "<signing key>.note". It is not derived from the signing
// key: that may be in a token or behind a command and then gives no secret to derive from, one key must be replaceable without
// the other, and the same scalar in two signature schemes has no proof of security. `audit checkpoint` signs with the signing key
// which note key is its owner's. Ed25519 is deterministic, so one key and one tree give one note, byte for byte.
//
// Keys are spelled as Go's golang.org/x/mod/sumdb/note does, which other tools read:
//   public    NAME+ID+BASE64(0x01 || 32 bytes)                 ID: 8 hex digits, SHA-256(NAME || 0x0A || 0x01 || key)[:4]
//   private   PRIVATE+KEY+NAME+ID+BASE64(0x01 || 32-byte seed)

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/digest.h"
#include "core/file.h"

struct evp_pkey_st;

namespace overproof {

/// A public note key.
class NoteVerifier {
 public:
  static NoteVerifier parse(std::string_view text, const fs::path& origin);  ///< one line; throws FormatError
  /// The text of a key, or a file that holds it.
  static NoteVerifier from_text_or_file(const std::string& text_or_file);
  const std::string& name() const { return name_; }
  uint32_t id() const { return id_; }
  std::string text() const;
  bool verify(std::string_view message, std::string_view signature) const;

 private:
  friend class NoteSigner;
  NoteVerifier(std::string name, std::string_view key, const fs::path& origin);
  std::string name_, key_;  // 32 bytes
  uint32_t id_ = 0;
  std::shared_ptr<evp_pkey_st> pkey_;
};

/// A private note key.
class NoteSigner {
 public:
  /// A new key. `name`: as a URL without scheme, "example.com/corpora"; "": "overproof-" and ten bytes of the key's digest.
  static NoteSigner generate(const std::string& name = "");
  static NoteSigner parse(std::string_view text, const fs::path& origin);
  /// Reads the key, or makes one: mode 0600, and its public key in "<file>.pub".
  static NoteSigner load_or_create(const fs::path& file, const std::string& name = "");
  const NoteVerifier& verifier() const { return verifier_; }
  std::string text() const;                          ///< the private key
  std::string sign(std::string_view message) const;  ///< 64 bytes
  /// The note: `text` (ends in a newline), an empty line, one signature.
  std::string sign_note(std::string_view text) const;

 private:
  NoteSigner(std::string name, std::string seed, const fs::path& origin);
  std::string seed_;
  std::shared_ptr<evp_pkey_st> pkey_;
  NoteVerifier verifier_;
};

/// "<signing key>.note".
fs::path note_key_path(const fs::path& signing_key);

/// The text of a note with any signer. Throws FormatError when it is no note.
std::string unverified_note_text(std::string_view note, const fs::path& origin);

/// The text of a note that the key has signed. Signatures of other keys (witnesses) are passed over, as the format asks. Throws
/// FormatError when it is no note; nothing when this key did not sign it, or any signature under its name and ID does not hold.
std::optional<std::string> open_note(std::string_view note, const NoteVerifier& key, const fs::path& origin);

/// The text of a checkpoint (tlog-checkpoint). Lines after the third are not written, and refused: the signature would cover what
/// no verifier checks.
struct TreeHead {
  std::string origin;  ///< unlike any other tree's: two trees under one origin must be prefixes of each other
  int64_t size = 0;
  Digest root;
  std::string text() const;
  static TreeHead parse(std::string_view text, const fs::path& origin);  ///< of a note's text; throws FormatError
};

}  // namespace overproof
