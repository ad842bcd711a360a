#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "core/error.h"
#include "provenance/keys.h"
#include "tests/provenance/temp_folder.h"

using namespace overproof;
using Catch::Contains;

namespace {
unsigned mode_of(const fs::path& file) {
  struct stat status {};
  REQUIRE(stat(file.c_str(), &status) == 0);
  return status.st_mode & 0777;
}
}  // namespace

TEST_CASE("a key is made at first use, private, and is the same afterwards") {
  TempFolder folder;
  const fs::path file = folder / "config/overproof/key.pem";
  const Key first = load_or_create_key(file);
  CHECK(mode_of(file) == 0600);
  CHECK(mode_of(file.parent_path()) == 0700);
  CHECK(mode_of(file.parent_path().parent_path()) == 0700);
  const Key second = load_or_create_key(file);
  CHECK(first.public_key() == second.public_key());
  CHECK(std::distance(fs::directory_iterator(file.parent_path()), {}) == 1);  // no partial file is left
}

TEST_CASE("a key that others may read is refused with the remedy") {
  TempFolder folder;
  load_or_create_key(folder / "key.pem");
  for (const mode_t mode : {0640, 0604, 0620, 0666}) {
    REQUIRE(chmod((folder / "key.pem").c_str(), mode) == 0);
    CHECK_THROWS_WITH(load_or_create_key(folder / "key.pem"), Contains("chmod 600"));
  }
  REQUIRE(chmod((folder / "key.pem").c_str(), 0400) == 0);
  CHECK_NOTHROW(load_or_create_key(folder / "key.pem"));
}

TEST_CASE("the key's place follows the environment") {
  setenv("OVERPROOF_KEY", "elsewhere/k.pem", 1);
  CHECK(default_key_path() == "elsewhere/k.pem");
  unsetenv("OVERPROOF_KEY");
  setenv("XDG_CONFIG_HOME", "conf", 1);
  CHECK(default_key_path() == "conf/overproof/signing-key.pem");
  unsetenv("XDG_CONFIG_HOME");
  const std::string home = getenv("HOME") ? getenv("HOME") : "";
  setenv("HOME", "house", 1);
  CHECK(default_key_path() == "house/.config/overproof/signing-key.pem");
  unsetenv("HOME");
  CHECK_THROWS_AS(default_key_path(), UsageError);
  if (!home.empty()) setenv("HOME", home.c_str(), 1);
}

TEST_CASE("a signature holds for its message and key alone, on all three curves") {
  for (const Curve curve : {Curve::p256, Curve::p384, Curve::p521}) {
    const Key key = Key::generate(curve), other = Key::generate(curve);
    const std::string signature = key.sign("message");
    CHECK(key.public_key().verify("message", signature));
    CHECK_FALSE(key.public_key().verify("messagf", signature));
    CHECK_FALSE(other.public_key().verify("message", signature));
    CHECK_FALSE(key.public_key().verify("message", ""));
    for (size_t i = 0; i < signature.size(); ++i) {
      std::string flipped = signature;
      flipped[i] = char(flipped[i] ^ 1);
      CHECK_FALSE(key.public_key().verify("message", flipped));
    }
    CHECK(PublicKey::from_pem(key.public_key().pem(), "memory").hint() == key.public_key().hint());
  }
}

TEST_CASE("what is no ECDSA key is a format error") {
  TempFolder folder;
  write_text(folder / "k.pem", "-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n");
  chmod((folder / "k.pem").c_str(), 0600);
  CHECK_THROWS_AS(Key::read(folder / "k.pem"), FormatError);
  CHECK_THROWS_AS(PublicKey::read(folder / "k.pem"), FormatError);
  CHECK_THROWS_AS(PublicKey::from_pem("", "memory"), FormatError);
  CHECK_THROWS_AS(Key::read(folder / "none.pem"), IoError);
  // Ed25519 (the public key of RFC 8032, section 7.1, test 1): model-signing refuses it, so do we.
  CHECK_THROWS_WITH(PublicKey::from_pem("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
                                        "-----END PUBLIC KEY-----\n", "memory"),
                    Contains("P-256"));
}
