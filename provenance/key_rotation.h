#pragma once
// From one signing key to the next. The old key signs an in-toto statement that names the new one, and the new key's own
// signature stands in it, so that nobody can be made the successor of somebody else's key:
//
//   subject        the new public key: SHA-256 of its PEM text, which is its hint
//   predicateType  urn:overproof:key-rotation:v1
//   predicate      { "from": old hint, "to": PEM of the new key, "accepted": base64 signature by the new key }
//
// Whoever trusts the old key can trust the new one by it. It takes nothing away from the old key: there is no time in a
// signature, so a key that was stolen must be no longer trusted, not rotated.

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

/// Throws FormatError when it is malformed, or the new key's signature does not hold. Whether the old key's does, only its
/// owner's public key can tell: envelope.verify().
KeyRotation read_rotation(std::string_view text, const fs::path& origin);

/// Keys to trust on the word of `trusted`: itself, with a successor for each file that leads on from it, in any order. Throws
/// ProvenanceError when a file's signature does not hold or nothing leads to it.
PublicKey with_rotations(PublicKey trusted, const std::vector<fs::path>& files);

/// How the command line says whose signatures count. Verbs that check signatures visit this among their own options.
struct TrustOptions {
  std::string public_key, rotations;
  template <class V>
  void visit(V&& v) {
    v("public-key", public_key, any_value(),
      "PEM file of the signer you trust; without it signatures are checked by the keys that the statements name");
    v("rotations", rotations, any_value(), "files of `key rotate`, apart by commas, that lead from that key to newer ones");
  }
  bool given() const { return !public_key.empty(); }
  /// Null when nobody is named. Throws UsageError on rotations that lead on from nothing, and as with_rotations().
  std::shared_ptr<const PublicKey> key() const;
};

}  // namespace overproof
