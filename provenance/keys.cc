#include "provenance/keys.h"

#include <fmt/format.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/store.h>
#include <openssl/ui.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <exception>

#include "core/error.h"
#include "core/private_file.h"
#include "provenance/key_internal.h"

namespace overproof {
namespace {

constexpr int64_t kMaxPemBytes = 64 << 10;

using KeyPointer = std::shared_ptr<EVP_PKEY>;
using Bio = std::unique_ptr<BIO, decltype(&BIO_free_all)>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

KeyPointer own(EVP_PKEY* key) { return KeyPointer(key, EVP_PKEY_free); }

Bio reading(std::string_view text) {
  Bio bio(BIO_new_mem_buf(text.data(), int(text.size())), BIO_free_all);
  if (!bio) throw std::bad_alloc();
  return bio;
}

std::string drained(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, size_t(size));
}

/// Never asks a terminal for a passphrase on its own, so that no program hangs.
int no_passphrase(char*, int, int, void*) { return -1; }

Curve curve_of(EVP_PKEY* key, const fs::path& origin) {
  char name[64] = {};
  size_t length = 0;
  const auto is_any = [&](std::initializer_list<const char*> kinds) {
    return std::any_of(kinds.begin(), kinds.end(), [&](const char* kind) { return EVP_PKEY_is_a(key, kind); });
  };
  std::string what = "a key of another kind", why = "OpenSSF Model Signing knows no other";
  if (EVP_PKEY_is_a(key, "EC")) {
    const bool named = EVP_PKEY_get_group_name(key, name, sizeof name, &length);
    const std::string_view group(name, named ? length : 0);
    if (group == "prime256v1" || group == "P-256") return Curve::p256;
    if (group == "secp384r1" || group == "P-384") return Curve::p384;
    if (group == "secp521r1" || group == "P-521") return Curve::p521;
    what = named ? fmt::format("an ECDSA key over {}", group) : "an ECDSA key over a curve without a name";
    why = EVP_PKEY_get_bits(key) < 256 ? "it is too weak" : "verifiers take no other curve";
  } else if (is_any({"ED25519", "ED448"})) {
    what = "an Ed25519 or Ed448 key";
    why = "the verifiers of OpenSSF Model Signing refuse them";
  } else if (is_any({"RSA", "RSA-PSS", "DSA"})) {
    what = "an RSA or DSA key";
    why = "the verifiers of OpenSSF Model Signing refuse them";
  }
  throw FormatError(
      origin, -1,
      fmt::format("{}, not an ECDSA key over P-256, P-384 or P-521: {}; make one with 'overproof key new'", what, why));
}

const EVP_MD* digest_for(Curve curve) {
  return curve == Curve::p256 ? EVP_sha256() : curve == Curve::p384 ? EVP_sha384() : EVP_sha512();
}

[[noreturn]] void openssl_failed(std::string_view action) {
  char reason[160] = "no reason given";
  if (const unsigned long code = ERR_get_error()) ERR_error_string_n(code, reason, sizeof reason);
  throw ProvenanceError(fmt::format("{}: OpenSSL reports {}", action, reason));
}

/// The public half with the curve by its name and the point in full, however the key's file spells them: a key's hint is the digest of
/// this encoding, as other verifiers take it. Null where a token does not give the point away.
KeyPointer spelt_plainly(EVP_PKEY* key, Curve curve) {
  using Number = std::unique_ptr<BIGNUM, decltype(&BN_free)>;
  BIGNUM *x = nullptr, *y = nullptr;
  const bool given = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_PUB_X, &x) && EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_PUB_Y, &y);
  const Number own_x(x, BN_free), own_y(y, BN_free);
  const int bytes = curve == Curve::p256 ? 32 : curve == Curve::p384 ? 48 : 66;
  std::string point(size_t(1 + 2 * bytes), '\4');
  auto* const begin = reinterpret_cast<unsigned char*>(point.data());
  EVP_PKEY* plain = nullptr;
  if (given && BN_bn2binpad(x, begin + 1, bytes) == bytes && BN_bn2binpad(y, begin + 1 + bytes, bytes) == bytes) {
    std::string group = curve_name(curve);
    OSSL_PARAM parameters[] = {OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group.data(), group.size()),
                               OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()),
                               OSSL_PARAM_construct_end()};
    const std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)> context(EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr),
                                                                              EVP_PKEY_CTX_free);
    if (context && EVP_PKEY_fromdata_init(context.get()) == 1) EVP_PKEY_fromdata(context.get(), &plain, EVP_PKEY_PUBLIC_KEY, parameters);
  }
  ERR_clear_error();
  return plain ? own(plain) : nullptr;
}

/// What a file that should hold a key in PEM holds instead, and what makes a key of it; nothing when that cannot be recognised.
std::string instead_of_pem(std::string_view content, bool is_private) {
  const auto has = [&](std::string_view words) { return content.find(words) != std::string_view::npos; };
  if (has("BEGIN OPENSSH PRIVATE KEY")) return ": it is a key of OpenSSH; 'ssh-keygen -p -m PKCS8 -f FILE' rewrites a copy of it";
  if (has("COSIGN PRIVATE KEY") || has("SIGSTORE PRIVATE KEY"))
    return ": it is a key of cosign in its own encryption, which nothing else reads; make one with 'overproof key new'";
  if (is_private && has("BEGIN PUBLIC KEY")) return ": it is the public half, which cannot sign";
  if (!is_private && has("PRIVATE KEY")) return ": it is the private half; 'openssl pkey -pubout -in FILE' shows the public one";
  if (has("BEGIN CERTIFICATE"))
    return is_private ? ": it is a certificate, which cannot sign"
                      : ": it is a certificate; 'openssl x509 -pubkey -noout -in FILE' shows its key";
  if (content.starts_with('\x30'))
    return fmt::format(": it may be in DER; 'openssl pkey {}-inform DER -in FILE -out KEY.pem' makes PEM of it", is_private ? "" : "-pubin ");
  return content.empty() ? ": the file is empty" : "";
}

/// What the reader of a PEM file or a store asks for a passphrase.
struct Asked {
  const PassphraseSource& source;
  std::string key;
  bool asked = false, answered = false;
  std::exception_ptr failure = {};

  static int answer(char* to, int most, int, void* self_pointer) {
    auto& self = *static_cast<Asked*>(self_pointer);
    self.asked = true;
    std::optional<std::string> secret;
    try {
      if (self.source) secret = self.source(self.key);
    } catch (...) {  // OpenSSL calls this: an exception must not pass through its C frames, which would leak
      self.failure = std::current_exception();
      return -1;
    }
    if (!secret || secret->empty() || int(secret->size()) > most) return -1;
    self.answered = true;
    std::copy(secret->begin(), secret->end(), to);
    const int length = int(secret->size());
    OPENSSL_cleanse(secret->data(), secret->size());
    return length;
  }

  /// After a failure: throws if the passphrase was the cause.
  void check() const {
    if (failure) std::rethrow_exception(failure);
    if (answered) throw UsageError(fmt::format("{}: the passphrase is wrong, or the key is damaged", key));
    if (asked)
      throw UsageError(
          fmt::format("{}: is encrypted, and there is no passphrase; give --key-passphrase-file, set "
                      "OVERPROOF_KEY_PASSPHRASE, or run this on a terminal",
                      key));
  }
};

}  // namespace

const char* curve_name(Curve curve) { return curve == Curve::p256 ? "P-256" : curve == Curve::p384 ? "P-384" : "P-521"; }

bool create_key_file(const fs::path& file, std::string_view content) {
  return create_private_file(file, content, "the signing key");
}

PublicKey::PublicKey(KeyPointer key, const fs::path& origin) : key_(std::move(key)), curve_(curve_of(key_.get(), origin)) {
  const KeyPointer plain = spelt_plainly(key_.get(), curve_);
  Bio bio(BIO_new(BIO_s_mem()), BIO_free_all);
  if (!bio || !PEM_write_bio_PUBKEY(bio.get(), plain ? plain.get() : key_.get())) openssl_failed("cannot encode the public key");
  pem_ = drained(bio.get());
  hint_ = sha256(pem_).hex();
}

PublicKey PublicKey::from_pem(std::string_view pem, const fs::path& origin) {
  if (int64_t(pem.size()) > kMaxPemBytes) throw FormatError(origin, -1, "too large for a public key");
  EVP_PKEY* key = PEM_read_bio_PUBKEY(reading(pem).get(), nullptr, no_passphrase, nullptr);
  ERR_clear_error();
  if (!key) throw FormatError(origin, -1, "no public key in PEM ('-----BEGIN PUBLIC KEY-----')" + instead_of_pem(pem, false));
  return PublicKey(own(key), origin);
}

PublicKey PublicKey::read(const fs::path& file) { return from_pem(read_file(file, kMaxPemBytes), file); }

bool PublicKey::verify(std::string_view message, std::string_view signature) const {
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!context || EVP_DigestVerifyInit(context.get(), nullptr, digest_for(curve_), nullptr, key_.get()) != 1)
    openssl_failed("cannot verify");
  const int result = EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(signature.data()), signature.size(),
                                      reinterpret_cast<const unsigned char*>(message.data()), message.size());
  ERR_clear_error();  // a malformed signature is an answer here, not an error
  return result == 1;
}

const PublicKey& PublicKey::successor(std::string_view hint) const {
  if (hint != hint_)
    for (const PublicKey& key : successors_)
      if (key.hint_ == hint) return key;
  return *this;
}

void PublicKey::add_successor(const PublicKey& key) { successors_.push_back(key); }

/// A key that OpenSSL holds, or that one of its providers does.
class PkeySigner : public Signer {
 public:
  PkeySigner(KeyPointer key, Curve curve) : key_(std::move(key)), curve_(curve) {}

  std::string sign(std::string_view message) const override {
    DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    const auto* data = reinterpret_cast<const unsigned char*>(message.data());
    size_t size = 0;
    if (!context || EVP_DigestSignInit(context.get(), nullptr, digest_for(curve_), nullptr, key_.get()) != 1 ||
        EVP_DigestSign(context.get(), nullptr, &size, data, message.size()) != 1)
      openssl_failed("cannot sign");
    std::string signature(size, '\0');
    if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size, data, message.size()) != 1)
      openssl_failed("cannot sign");
    signature.resize(size);
    return signature;
  }

  std::string private_pem(std::string_view passphrase) const override {
    Bio bio(BIO_new(BIO_s_mem()), BIO_free_all);
    if (!bio) throw std::bad_alloc();
    if (passphrase.empty()) {
      if (!PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr))
        openssl_failed("cannot encode the private key");
      return drained(bio.get());
    }
    constexpr int kRounds = 600'000;  // OpenSSL's own 2048 fall to a graphics card in an afternoon
    const std::unique_ptr<PKCS8_PRIV_KEY_INFO, decltype(&PKCS8_PRIV_KEY_INFO_free)> plain(EVP_PKEY2PKCS8(key_.get()),
                                                                                          PKCS8_PRIV_KEY_INFO_free);
    X509_ALGOR* scheme = PKCS5_pbe2_set_iv(EVP_aes_256_cbc(), kRounds, nullptr, 16, nullptr, NID_hmacWithSHA256);
    if (!plain || !scheme) openssl_failed("cannot encrypt the private key");
    X509_SIG* encrypted = PKCS8_set0_pbe(passphrase.data(), int(passphrase.size()), plain.get(), scheme);
    if (!encrypted) X509_ALGOR_free(scheme);
    const std::unique_ptr<X509_SIG, decltype(&X509_SIG_free)> owned(encrypted, X509_SIG_free);
    if (!encrypted || !PEM_write_bio_PKCS8(bio.get(), encrypted)) openssl_failed("cannot encrypt the private key");
    return drained(bio.get());
  }

 private:
  KeyPointer key_;
  Curve curve_;
};

Key Key::of(KeyPointer key, const fs::path& origin) {
  PublicKey shown(key, origin);
  const Curve curve = shown.curve();
  return Key(std::make_shared<PkeySigner>(std::move(key), curve), std::move(shown));
}

Key Key::generate(Curve curve) {
  EVP_PKEY* key = EVP_EC_gen(curve_name(curve));
  if (!key) openssl_failed("cannot make a signing key");
  return of(own(key), {});
}

Key Key::read(const fs::path& file, const PassphraseSource& passphrase) {
  require_private(file, "this signing key");
  std::string pem = read_file(file, kMaxPemBytes);
  Asked asked{passphrase, file.string()};
  EVP_PKEY* key = PEM_read_bio_PrivateKey(reading(pem).get(), nullptr, Asked::answer, &asked);
  ERR_clear_error();
  const std::string instead = key ? "" : instead_of_pem(pem, true);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key) {
    asked.check();
    throw FormatError(file, -1, "no private key in PEM ('-----BEGIN PRIVATE KEY-----')" + instead);
  }
  KeyPointer owned = own(key);
  Key read = of(owned, file);
  const std::unique_ptr<EVP_PKEY_CTX, decltype(&EVP_PKEY_CTX_free)> context(EVP_PKEY_CTX_new(owned.get(), nullptr),
                                                                            EVP_PKEY_CTX_free);
  if (!context || EVP_PKEY_pairwise_check(context.get()) != 1) {
    ERR_clear_error();
    throw FormatError(file, -1,
                      "its private and its public half do not belong together, so nothing it signs would hold; restore the file");
  }
  return read;
}

Key Key::open_uri(const std::string& uri, const PassphraseSource& passphrase) {
  const std::string scheme = uri.substr(0, uri.find(':'));
  if (scheme == "file") {
    std::string path = uri.substr(5);
    if (path.starts_with("//localhost/")) path.erase(0, 11);
    else if (path.starts_with("///")) path.erase(0, 2);
    require_private(path, "this signing key");
  }
  Asked asked{passphrase, uri};
  const std::unique_ptr<UI_METHOD, decltype(&UI_destroy_method)> ui(UI_UTIL_wrap_read_pem_callback(Asked::answer, 0),
                                                                    UI_destroy_method);
  const std::unique_ptr<OSSL_STORE_CTX, int (*)(OSSL_STORE_CTX*)> store(
      OSSL_STORE_open(uri.c_str(), ui.get(), &asked, nullptr, nullptr), OSSL_STORE_close);
  const auto failed = [&](std::string_view what) {
    char reason[160] = "no reason given";
    if (const unsigned long code = ERR_peek_last_error()) ERR_error_string_n(code, reason, sizeof reason);
    ERR_clear_error();
    throw UsageError(fmt::format("{}: {} (OpenSSL reports {})", uri, what, reason));
  };
  if (!store)
    failed(scheme == "file"
               ? "cannot be opened"
               : fmt::format("cannot be opened; a provider for '{}:' must be named in OpenSSL's configuration (for pkcs11: "
                             "pkcs11-provider)",
                             scheme));
  OSSL_STORE_expect(store.get(), OSSL_STORE_INFO_PKEY);
  KeyPointer found;
  int keys = 0;
  while (!OSSL_STORE_eof(store.get())) {
    const std::unique_ptr<OSSL_STORE_INFO, decltype(&OSSL_STORE_INFO_free)> info(OSSL_STORE_load(store.get()),
                                                                                 OSSL_STORE_INFO_free);
    if (!info) {
      if (OSSL_STORE_error(store.get()) && !OSSL_STORE_eof(store.get())) break;
      continue;
    }
    if (OSSL_STORE_INFO_get_type(info.get()) != OSSL_STORE_INFO_PKEY) continue;
    found = own(OSSL_STORE_INFO_get1_PKEY(info.get()));
    ++keys;
  }
  if (keys == 0) {
    if (asked.asked) ERR_clear_error();
    asked.check();
    failed("no private key is there");
  }
  ERR_clear_error();
  if (keys > 1) throw UsageError(fmt::format("{}: names {} keys; make the URI name one", uri, keys));
  return of(std::move(found), uri);
}

Key Key::by_command(const std::string& command, PublicKey key, std::chrono::milliseconds timeout) {
  auto signer = make_command_signer(command, key, timeout);
  return Key(std::move(signer), std::move(key));
}

fs::path default_key_path() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value ? value : "");
  };
  if (const std::string file = variable("OVERPROOF_KEY"); !file.empty()) return file;
  if (const std::string config = variable("XDG_CONFIG_HOME"); !config.empty())
    return fs::path(config) / "overproof" / "signing-key.pem";
  const std::string home = variable("HOME");
  if (home.empty()) throw UsageError("no place for the signing key: set OVERPROOF_KEY to a file, or HOME");
  return fs::path(home) / ".config" / "overproof" / "signing-key.pem";
}

bool is_key_uri(const std::string& name) {
  // One letter before the colon would be a drive, and what is there as a file is a file.
  const size_t colon = name.find(':');
  if (colon == std::string::npos || colon < 2 || fs::exists(name)) return false;
  return std::all_of(name.begin(), name.begin() + ptrdiff_t(colon),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '.' || c == '-'; });
}

Key load_or_create_key(const fs::path& file, const PassphraseSource& passphrase) {
  if (is_key_uri(file.string())) return Key::open_uri(file.string(), passphrase);
  if (!fs::exists(file)) create_key_file(file, Key::generate().private_pem());
  return Key::read(file, passphrase);
}

PassphraseSource KeyOptions::passphrase() const {
  return key_passphrase_file.empty() ? passphrase_from_user() : passphrase_from_file(key_passphrase_file);
}

Key open_key(const KeyOptions& options) {
  if (options.sign_with.empty()) {
    if (!options.public_key_of.empty()) throw UsageError("--public-key-of belongs to --sign-with");
    return load_or_create_key(options.key.empty() ? default_key_path() : fs::path(options.key), options.passphrase());
  }
  if (!options.key.empty()) throw UsageError("--key and --sign-with: only one of them can sign");
  if (options.public_key_of.empty())
    throw UsageError("--sign-with needs --public-key-of FILE, the public key that its signatures are checked by");
  return Key::by_command(options.sign_with, PublicKey::read(options.public_key_of), std::chrono::seconds(options.sign_timeout));
}

}  // namespace overproof
