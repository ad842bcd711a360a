#include "provenance/keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "core/error.h"

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

/// Never asks a terminal for a passphrase: an encrypted key is a clear error instead of a program that hangs.
int no_passphrase(char*, int, int, void*) { return -1; }

Curve curve_of(EVP_PKEY* key, const fs::path& origin) {
  char name[64] = {};
  size_t length = 0;
  if (EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, name, sizeof name, &length)) {
    const std::string_view group(name, length);
    if (group == "prime256v1") return Curve::p256;
    if (group == "secp384r1") return Curve::p384;
    if (group == "secp521r1") return Curve::p521;
  }
  throw FormatError(origin, -1, "not an ECDSA key over P-256, P-384 or P-521; make one with 'openssl ecparam -name prime256v1 "
                                "-genkey -noout -out KEY.pem'");
}

const EVP_MD* digest_for(Curve curve) {
  return curve == Curve::p256 ? EVP_sha256() : curve == Curve::p384 ? EVP_sha384() : EVP_sha512();
}

const char* group_name(Curve curve) { return curve == Curve::p256 ? "P-256" : curve == Curve::p384 ? "P-384" : "P-521"; }

[[noreturn]] void openssl_failed(std::string_view action) {
  char reason[160] = "no reason given";
  if (const unsigned long code = ERR_get_error()) ERR_error_string_n(code, reason, sizeof reason);
  throw ProvenanceError(fmt::format("{}: OpenSSL says {}", action, reason));
}

/// Writes a private file that did not exist. False when another process was first.
bool create_private_file(const fs::path& file, std::string_view content) {
  // Written under a name of its own and then linked, so that no reader ever sees half a key.
  const fs::path partial = fmt::format("{}.{}.partial", file.string(), ::getpid());
  ::unlink(partial.c_str());
  const int descriptor = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) throw IoError(file, "cannot create the signing key", errno);
  size_t done = 0;
  int failed = 0;
  while (done < content.size() && !failed) {
    const ssize_t n = ::write(descriptor, content.data() + done, content.size() - done);
    if (n > 0) done += size_t(n);
    else if (errno != EINTR) failed = errno;
  }
  if (!failed && ::fsync(descriptor) != 0) failed = errno;
  ::close(descriptor);
  bool first = false;
  if (!failed) {
    first = ::link(partial.c_str(), file.c_str()) == 0;
    if (!first && errno != EEXIST) failed = errno;
  }
  ::unlink(partial.c_str());
  if (failed) throw IoError(file, "cannot write the signing key", failed);
  return first;
}

void create_private_folders(const fs::path& folder) {
  if (folder.empty() || fs::exists(folder)) return;
  create_private_folders(folder.parent_path());
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw IoError(folder, "cannot create the folder", errno);
}

}  // namespace

PublicKey::PublicKey(KeyPointer key, const fs::path& origin) : key_(std::move(key)), curve_(curve_of(key_.get(), origin)) {
  Bio bio(BIO_new(BIO_s_mem()), BIO_free_all);
  if (!bio || !PEM_write_bio_PUBKEY(bio.get(), key_.get())) openssl_failed("cannot encode the public key");
  pem_ = drained(bio.get());
  hint_ = sha256(pem_).hex();
}

PublicKey PublicKey::from_pem(std::string_view pem, const fs::path& origin) {
  if (int64_t(pem.size()) > kMaxPemBytes) throw FormatError(origin, -1, "too large for a public key");
  EVP_PKEY* key = PEM_read_bio_PUBKEY(reading(pem).get(), nullptr, no_passphrase, nullptr);
  ERR_clear_error();
  if (!key) throw FormatError(origin, -1, "no public key in PEM ('-----BEGIN PUBLIC KEY-----')");
  return PublicKey(own(key), origin);
}

PublicKey PublicKey::read(const fs::path& file) { return from_pem(read_file(file, kMaxPemBytes), file); }

bool PublicKey::verify(std::string_view message, std::string_view signature) const {
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!context || EVP_DigestVerifyInit(context.get(), nullptr, digest_for(curve_), nullptr, key_.get()) != 1)
    openssl_failed("cannot verify");
  const int result =
      EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(signature.data()), signature.size(),
                       reinterpret_cast<const unsigned char*>(message.data()), message.size());
  ERR_clear_error();  // a malformed signature is an answer here, not an error
  return result == 1;
}

Key::Key(KeyPointer key, const fs::path& origin) : key_(key), public_key_(std::move(key), origin) {}

Key Key::generate(Curve curve) {
  EVP_PKEY* key = EVP_EC_gen(group_name(curve));
  if (!key) openssl_failed("cannot make a signing key");
  return Key(own(key), {});
}

Key Key::read(const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) throw IoError(file, "cannot read the signing key", errno);
  if (status.st_mode & (S_IRWXG | S_IRWXO))
    throw ProvenanceError(fmt::format("{}: others may read or change this signing key (mode {:04o}); run 'chmod 600 {}', and "
                                      "make a new key if anyone may have copied it",
                                      file.string(), unsigned(status.st_mode & 07777), file.string()));
  const std::string pem = read_file(file, kMaxPemBytes);
  EVP_PKEY* key = PEM_read_bio_PrivateKey(reading(pem).get(), nullptr, no_passphrase, nullptr);
  ERR_clear_error();
  if (!key) throw FormatError(file, -1, "no private key in PEM, or an encrypted one (passphrases are not supported)");
  return Key(own(key), file);
}

std::string Key::sign(std::string_view message) const {
  DigestContext context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const auto* data = reinterpret_cast<const unsigned char*>(message.data());
  size_t size = 0;
  if (!context || EVP_DigestSignInit(context.get(), nullptr, digest_for(public_key_.curve()), nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, data, message.size()) != 1)
    openssl_failed("cannot sign");
  std::string signature(size, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size, data, message.size()) != 1)
    openssl_failed("cannot sign");
  signature.resize(size);
  return signature;
}

std::string Key::private_pem() const {
  Bio bio(BIO_new(BIO_s_mem()), BIO_free_all);
  if (!bio || !PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr))
    openssl_failed("cannot encode the private key");
  return drained(bio.get());
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

Key load_or_create_key(const fs::path& file) {
  if (fs::exists(file)) return Key::read(file);
  create_private_folders(file.parent_path());
  create_private_file(file, Key::generate().private_pem());
  return Key::read(file);
}

}  // namespace overproof
