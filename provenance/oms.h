#pragma once
// OpenSSF Model Signing v1.0 with a key: `model.sig` is a Sigstore bundle v0.3 in JSON around a DSSE envelope around an
// in-toto Statement v1 with predicate https://model_signing/signature/v1.0. `model-signing verify key` accepts it.
//
// The identity of an artifact is its OMS root: SHA-256 over the raw digests of its files, in the order of their names.
// Names are no part of the root, so a single file has the same root as a folder that holds nothing else.

#include <string>
#include <vector>

#include "core/file.h"
#include "provenance/keys.h"

namespace overproof {

inline constexpr std::string_view kModelSignatureName = "model.sig";
inline constexpr std::string_view kClaimsName = "claims.jsonl";

/// Names are ordered part by part, as Python orders paths: "a/b" comes before "a-b" although '/' is after '-'.
bool oms_name_less(std::string_view a, std::string_view b);

/// What no OMS verifier hashes in a folder that lists these as ignored: the signature, the claims, and git's own files.
bool is_oms_ignored(std::string_view name);

/// The root of `files` in any order. Throws UsageError when there are none.
Digest oms_root(std::vector<FileRecord> files);

struct OmsManifest {
  std::string model_name;         ///< informative only
  std::vector<FileRecord> files;  ///< in the order of their names; bytes is -1, as OMS does not record sizes
  Digest root;
  std::string key_hint;  ///< PublicKey::hint() of the signer; "" in bundles made before OMS 1.0
  bool signature_valid = false;
  std::vector<std::string> ignore_paths;  ///< relative to the folder; what is below them is left out, too
  bool allow_symlinks = false;            ///< its signer took a link to a file for that file
  bool expects_claims = false;  ///< its signer left room for claims.jsonl, as make_oms_bundle does
};

/// Which files may come into the folder afterwards.
enum class OmsRoomFor { claims, signature_only };

/// The text of model.sig.
std::string make_oms_bundle(const std::string& model_name, const std::vector<FileRecord>& files, const Key& key,
                            OmsRoomFor room = OmsRoomFor::claims);

/// Reads a bundle of key signing and whole-file SHA-256, made by any tool. `key`: nullptr checks no signature. Throws
/// FormatError when it is malformed or its root is not that of its list.
OmsManifest read_oms_bundle(std::string_view text, const fs::path& origin, const PublicKey* key);

}  // namespace overproof
