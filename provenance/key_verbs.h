#pragma once
// `overproof key new | show | rotate`, and `overproof sign`: keys, and signatures of folders that no stage made.

#include <string>

#include "core/answer.h"
#include "provenance/keys.h"

namespace overproof {

struct NewKeyConfig {
  fs::path out, key_passphrase_file;
  Curve curve = Curve::p256;
  bool encrypt = false;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "file of the new private key; empty: where signing looks for it");
    v("curve", curve, enum_of<Curve>({{"p256", Curve::p256}, {"p384", Curve::p384}, {"p521", Curve::p521}}),
      "curve of the key; the digest of its signatures follows it");
    v("encrypt", encrypt, any_value(), "encrypt the file with a passphrase");
    v("key-passphrase-file", key_passphrase_file, any_value(),
      "file with the passphrase to encrypt with; else $OVERPROOF_KEY_PASSPHRASE, else you are asked");
  }
};

struct ShowKeyConfig {
  KeyOptions key;
  bool pem = false;
  template <class V>
  void visit(V&& v) {
    v("pem", pem, any_value(), "print the public key alone, to give to those who verify");
    key.visit(v);
  }
};

struct RotateKeyConfig {
  KeyOptions key;  ///< the old one
  std::string to;
  fs::path to_passphrase_file, out;
  template <class V>
  void visit(V&& v) {
    v("to", to, any_value(), "the new signing key");
    v("to-passphrase-file", to_passphrase_file, any_value(), "file with the passphrase of the new key, if it is encrypted");
    v("out", out, any_value(), "file of the rotation, to publish next to the new public key");
    key.visit(v);
  }
};

struct SignConfig {
  KeyOptions key;
  fs::path cache, signature;
  std::string name;
  bool trust_change_time = false;
  template <class V>
  void visit(V&& v) {
    v("cache", cache, any_value(),
      "file of digests between chunks, outside the folder: the next signature hashes a large file on all cores, and in sequence "
      "only what follows a change; all is read, and a wrong cache cannot make a wrong signature");
    v("trust-change-time", trust_change_time, any_value(),
      "with --cache: do not read files whose size, inode and times of change match the cache; root, or a changed clock, can forge "
      "those");
    v("signature", signature, any_value(), "file of the signature; empty: model.sig in the folder");
    v("name", name, any_value(), "name of the model in the signature; empty: the folder's");
    key.visit(v);
  }
};

Answer run_key_new(const NewKeyConfig& config);
Answer run_key_show(const ShowKeyConfig& config);
Answer run_key_rotate(const RotateKeyConfig& config);
/// Signs every file of a folder, as `model-signing sign key` does. Refuses an artifact of ours: its lineage names its files too.
Answer run_sign(const SignConfig& config, const fs::path& folder);

}  // namespace overproof
