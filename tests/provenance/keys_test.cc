#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "core/error.h"
#include "core/json.h"
#include "provenance/key_internal.h"
#include "provenance/key_rotation.h"
#include "tests/support.h"

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
  CHECK_THROWS_WITH(
      PublicKey::from_pem("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
                          "-----END PUBLIC KEY-----\n",
                          "memory"),
      Contains("P-256"));
}

TEST_CASE("a private key whose halves do not belong together is refused before it signs anything") {
  const TempFolder folder;
  const std::string pem = Key::generate().private_pem();
  const size_t begin = pem.find('\n') + 1, end = pem.find("\n-----END");
  std::string text = pem.substr(begin, end - begin);
  std::erase(text, '\n');
  std::string der = base64_decode(text, "pem");
  REQUIRE(der.size() == 138);  // PKCS #8 of P-256: the private number is in bytes 36 to 68
  der[50] = char(der[50] ^ 1);
  write_text(folder / "k.pem", "-----BEGIN PRIVATE KEY-----\n" + base64_encode(der) + "\n-----END PRIVATE KEY-----\n");
  chmod((folder / "k.pem").c_str(), 0600);
  CHECK_THROWS_WITH(Key::read(folder / "k.pem"), Contains("k.pem") && Contains("do not belong together"));
}

namespace {

PassphraseSource says(std::string passphrase) {
  return [passphrase](const std::string&) { return std::optional(passphrase); };
}
PassphraseSource silent() {
  return [](const std::string&) { return std::optional<std::string>(); };
}

fs::path write_private(const fs::path& file, std::string_view text) {
  write_text(file, text);
  chmod(file.c_str(), 0600);
  return file;
}

}  // namespace

TEST_CASE("an encrypted key opens with its passphrase alone") {
  TempFolder folder;
  const Key key = Key::generate(Curve::p384);
  const fs::path file = write_private(folder / "k.pem", key.private_pem("correct horse"));
  CHECK_THAT(read_file(file), Contains("BEGIN ENCRYPTED PRIVATE KEY"));
  for (const std::string& name : {file.string(), "file:" + file.string(), "file://" + file.string()}) {
    const Key read = load_or_create_key(name, says("correct horse"));
    CHECK(read.public_key() == key.public_key());
    CHECK(key.public_key().verify("message", read.sign("message")));
    CHECK_THROWS_WITH(load_or_create_key(name, says("correct hors")), Contains("passphrase is wrong"));
    CHECK_THROWS_WITH(load_or_create_key(name, silent()), Contains("is encrypted"));
  }
  CHECK_THROWS_AS(Key::read(file, says("")), UsageError);
  CHECK_THROWS_AS(Key::read(file, says(std::string(100000, 'x'))), UsageError);
  setenv("OVERPROOF_KEY_PASSPHRASE", "correct horse", 1);
  CHECK(Key::read(file).public_key() == key.public_key());
  unsetenv("OVERPROOF_KEY_PASSPHRASE");

  SECTION("the passphrase in a file") {
    const fs::path words = write_private(folder / "words", "correct horse\r\nbattery\n");
    CHECK(Key::read(file, passphrase_from_file(words)).public_key() == key.public_key());
    chmod(words.c_str(), 0644);
    CHECK_THROWS_WITH(Key::read(file, passphrase_from_file(words)), Contains("others may read this passphrase"));
    CHECK_THROWS_AS(Key::read(file, passphrase_from_file(write_private(folder / "none", "\nx\n"))), FormatError);
    CHECK_THROWS_AS(Key::read(file, passphrase_from_file(folder / "missing")), IoError);
    CHECK_THROWS_AS(Key::read(file, passphrase_from_file(write_private(folder / "long", std::string(2000, 'x')))), UsageError);
  }
  SECTION("a URI is as private as a file") {
    chmod(file.c_str(), 0640);
    CHECK_THROWS_WITH(load_or_create_key("file:" + file.string(), says("correct horse")), Contains("chmod 600"));
  }
}

TEST_CASE("a URI that leads to no key is an error, and makes none") {
  TempFolder folder;
  CHECK_THROWS_WITH(load_or_create_key("pkcs11:token=nobody;object=none"), Contains("pkcs11-provider"));
  CHECK_THROWS_AS(load_or_create_key("file:" + (folder / "none.pem").string()), IoError);
  const Key key = Key::generate();
  write_private(folder / "k.pub", key.public_key().pem());
  CHECK_THROWS_WITH(load_or_create_key("file:" + (folder / "k.pub").string()), Contains("no private key"));
  write_private(folder / "two.pem", key.private_pem() + Key::generate().private_pem());
  CHECK_THROWS_WITH(load_or_create_key("file:" + (folder / "two.pem").string()), Contains("names 2 keys"));
  CHECK(is_key_uri("pkcs11:token=x"));
  CHECK_FALSE(is_key_uri("C:/keys/k.pem"));
  CHECK_FALSE(is_key_uri("keys/a:b.pem"));
}

TEST_CASE("commands are split into words without a shell") {
  using Words = std::vector<std::string>;
  CHECK(split_command(" a  b\tc ") == Words{"a", "b", "c"});
  CHECK(split_command("a 'b c' \"d 'e'\" f\\ g ''") == Words{"a", "b c", "d 'e'", "f g", ""});
  CHECK(split_command("a $(x) | ; > y") == Words{"a", "$(x)", "|", ";", ">", "y"});
  CHECK(split_command("a 'b\\'") == Words{"a", "b\\"});
  for (const char* bad : {"", "  ", "''", "a 'b", "a \"b"}) CHECK_THROWS_AS(split_command(bad), UsageError);
}

TEST_CASE("an external signer is believed when its signature holds, and never waited for without end") {
  TempFolder folder;
  const Key key = Key::generate();
  const std::string file = write_private(folder / "k.pem", key.private_pem()).string();
  std::chrono::milliseconds timeout{60000};
  const auto sign = [&](const std::string& command, const std::string& message = "message") {
    return Key::by_command(command, key.public_key(), timeout).sign(message);
  };
  const std::string openssl = "openssl dgst -sha256 -sign " + file;
  CHECK(key.public_key().verify("message", sign(openssl)));
  const std::string large(3 << 20, 'm');  // more than a pipe holds
  CHECK(key.public_key().verify(large, sign(openssl, large)));
  CHECK_THROWS_WITH(sign("openssl dgst -sha384 -sign " + file), Contains("no signature of its input"));
  CHECK_THROWS_WITH(sign("true"), Contains("no signature"));
  CHECK_THROWS_WITH(sign("true", large), Contains("no signature"));  // reads nothing
  CHECK_THROWS_WITH(sign("cat", large), Contains("more than 1024 bytes"));
  CHECK_THROWS_WITH(sign("false"), Contains("exit code 1"));
  timeout = std::chrono::milliseconds(250);
  CHECK_THROWS_WITH(sign("sleep 600"), Contains("within 0.25 s"));
  timeout = std::chrono::milliseconds(5000);  // enough for a shell to start and close its output
  CHECK_THROWS_WITH(sign("sh -c 'exec >&-; exec sleep 600'"), Contains("did not end within 5 s"));
  timeout = std::chrono::milliseconds(60000);
  CHECK_THROWS_WITH(sign("sh -c 'kill -9 $$'"), Contains("signal 9"));
  CHECK_THROWS_AS(sign((folder / "none").string()), UsageError);
  CHECK_THROWS_AS(Key::by_command(openssl, key.public_key(), timeout).private_pem(), UsageError);
}

TEST_CASE("options name one key, or a program and its public key") {
  TempFolder folder;
  const Key key = Key::generate();
  const std::string file = write_private(folder / "k.pem", key.private_pem()).string();
  write_text(folder / "k.pub", key.public_key().pem());
  KeyOptions options;
  options.sign_with = "openssl dgst -sha256 -sign " + file;
  CHECK_THROWS_WITH(open_key(options), Contains("--public-key-of"));
  options.public_key_of = (folder / "k.pub").string();
  CHECK(key.public_key().verify("message", open_key(options).sign("message")));
  options.key = file;
  CHECK_THROWS_WITH(open_key(options), Contains("only one"));
  options.sign_with = "";
  CHECK_THROWS_WITH(open_key(options), Contains("belongs to --sign-with"));
  options.public_key_of = "";
  CHECK(open_key(options).public_key() == key.public_key());
}

TEST_CASE("a rotation leads from a trusted key to its successors, and only from there") {
  TempFolder folder;
  const Key a = Key::generate(), b = Key::generate(Curve::p384), c = Key::generate(Curve::p521), stranger = Key::generate();
  const auto rotate = [&](const char* name, const Key& from, const Key& to) {
    write_text(folder / name, make_rotation(from, to));
    return folder / name;
  };
  const fs::path ab = rotate("ab", a, b), bc = rotate("bc", b, c), sc = rotate("sc", stranger, c);
  const PublicKey trusted = with_rotations(a.public_key(), {bc, ab});
  CHECK(trusted.successor(b.public_key().hint()) == b.public_key());
  CHECK(trusted.successor(c.public_key().hint()) == c.public_key());
  CHECK(trusted.successor(stranger.public_key().hint()) == a.public_key());
  CHECK(trusted.successor("") == a.public_key());
  CHECK_THROWS_AS(with_rotations(a.public_key(), {bc}), ProvenanceError);
  CHECK_THROWS_AS(with_rotations(a.public_key(), {ab, sc}), ProvenanceError);
  CHECK_THROWS_AS(with_rotations(b.public_key(), {ab}), ProvenanceError);  // not backwards
  CHECK_THROWS_AS(make_rotation(a, a), UsageError);

  // Signed by a stranger under the old key's name; a new key that never agreed; another subject.
  const Envelope good = Envelope::from_json(parse_json(read_file(ab), ab), ab);
  const auto forge = [&](auto change, const Key& signer) {
    Json statement = parse_json(good.payload, ab);
    change(statement);
    write_text(folder / "forged",
               sign_envelope(good.payload_type, statement.dump(), signer, a.public_key().hint()).to_json().dump());
    return std::vector<fs::path>{folder / "forged"};
  };
  CHECK_NOTHROW(with_rotations(a.public_key(), forge([](Json&) {}, a)));
  CHECK_THROWS_AS(with_rotations(a.public_key(), forge([](Json&) {}, stranger)), ProvenanceError);
  CHECK_THROWS_AS(with_rotations(a.public_key(), forge(
                                                     [&](Json& s) {
                                                       s["predicate"]["to"] = stranger.public_key().pem();
                                                       s["subject"][0]["digest"]["sha256"] = stranger.public_key().hint();
                                                     },
                                                     a)),
                  FormatError);
  CHECK_THROWS_AS(
      with_rotations(a.public_key(), forge([&](Json& s) { s["subject"][0]["digest"]["sha256"] = c.public_key().hint(); }, a)),
      FormatError);
  CHECK_THROWS_AS(with_rotations(a.public_key(), forge([&](Json& s) { s["predicate"]["from"] = c.public_key().hint(); }, a)),
                  FormatError);
  CHECK_THROWS_AS(with_rotations(a.public_key(), forge([](Json& s) { s["predicate"]["more"] = 1; }, a)), FormatError);
  CHECK_THROWS_AS(read_rotation("{}", "r"), FormatError);
}

TEST_CASE("a key is its value: explicit curve parameters and a compressed point give the hint of the plain spelling") {
  TempFolder folder;
  const auto shell = [&](const std::string& command) { return std::system(("cd '" + folder.path().string() + "' && " + command + " 2>/dev/null").c_str()); };
  REQUIRE(shell("openssl ecparam -name prime256v1 -genkey -noout -param_enc explicit -out explicit.pem && chmod 600 explicit.pem") == 0);
  REQUIRE(shell("openssl ec -in explicit.pem -pubout -param_enc named_curve -out plain.pub") == 0);
  REQUIRE(shell("openssl ec -in explicit.pem -pubout -param_enc explicit -out explicit.pub") == 0);
  REQUIRE(shell("openssl ec -in explicit.pem -pubout -param_enc named_curve -conv_form compressed -out compressed.pub") == 0);
  const std::string plain = read_file(folder / "plain.pub");
  const Key key = Key::read(folder / "explicit.pem");
  CHECK(key.public_key().pem() == plain);
  CHECK(key.public_key().hint() == sha256(plain).hex());
  for (const char* spelt : {"explicit.pub", "compressed.pub", "plain.pub"}) {
    INFO(spelt);
    const PublicKey read = PublicKey::read(folder / spelt);
    CHECK(read.hint() == sha256(plain).hex());
    CHECK(read.verify("text", key.sign("text")));
  }
}

TEST_CASE("a file that is another kind of key says which, and what makes a key of it") {
  TempFolder folder;
  const Key key = Key::generate();
  const auto refusal = [&](const std::string& content, bool is_private) {
    const fs::path file = write_text(folder / "k", content);
    chmod(file.c_str(), 0600);
    try {
      if (is_private) Key::read(file);
      else PublicKey::read(file);
    } catch (const FormatError& e) {
      return std::string(e.what());
    }
    return std::string("taken");
  };
  CHECK_THAT(refusal(key.public_key().pem(), true), Contains("public half"));
  CHECK_THAT(refusal(key.private_pem(), false), Contains("private half") && Contains("-pubout"));
  CHECK_THAT(refusal("-----BEGIN OPENSSH PRIVATE KEY-----\n", true), Contains("ssh-keygen"));
  CHECK_THAT(refusal("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", true), Contains("cosign"));
  CHECK_THAT(refusal("-----BEGIN CERTIFICATE-----\n", false), Contains("openssl x509"));
  CHECK_THAT(refusal(std::string("0\x59\x30\x13", 4), false), Contains("-inform DER"));
  CHECK_THAT(refusal("", true), Contains("empty"));
}
