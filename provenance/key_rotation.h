#pragma once
// From one signing key to the next. The old key signs an in-toto statement that names the new one and holds a signature by the
// new key, so that no key becomes the successor of another without its owner's consent:
//
//   subject        the new public key: SHA-256 of its PEM text, which is its hint
//   predicateType  urn:overproof:key-rotation:v1
//   predicate      { "from": old hint, "to": PEM of the new key, "accepted": base64 signature by the new key }
//
// A reader who trusts the old key can trust the new one by it. The old key stays valid: there is no time in a signature, so a
// stolen key must no longer be trusted, not rotated.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "provenance/dsse.h"

namespace overproof {

struct KeyRotation {
  std::string from;  ///< hint of the old key
  PublicKey to;
  Envelope envelope;
};

/// The text of a rotation file. Throws UsageError when both keys are the same.
std::string make_rotation(const Key& from, const Key& to);

/// Throws FormatError when it is malformed, or the new key's signature does not hold. Whether the old key's does is
/// checked with its public key: envelope.verify().
KeyRotation read_rotation(std::string_view text, const fs::path& origin);

/// `trusted` with a successor for each file that leads on from it, in any order. Throws
/// ProvenanceError when a file's signature does not hold or nothing leads to it.
PublicKey with_rotations(PublicKey trusted, const std::vector<fs::path>& files);

/// Options of verbs that check signatures: whose count.
struct TrustOptions {
  fs::path public_key;
  StringList rotations;
  template <class V>
  void visit(V&& v) {
    v("public-key", public_key, any_value(),
      "PEM file of the signer you trust; without it signatures are checked by the keys that the statements name");
    v("rotations", rotations, any_value(), "files of `key rotate` that lead from that key to newer ones");
  }
  bool given() const { return !public_key.empty(); }
  /// Null when no key is named. Throws UsageError on rotations without a key, and as with_rotations().
  std::shared_ptr<const PublicKey> key() const;
};

}  // namespace overproof
