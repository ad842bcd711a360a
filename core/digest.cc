#include "core/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "core/error.h"

namespace overproof {

std::string Digest::hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(64);
  for (const uint8_t b : bytes) {
    text += kDigits[b >> 4];
    text += kDigits[b & 15];
  }
  return text;
}

Digest Digest::from_hex(std::string_view hex) {
  const std::string_view given = hex;
  if (hex.starts_with("sha256:")) hex.remove_prefix(7);
  const auto digit = [&](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  Digest d;
  bool good = hex.size() == 64;
  for (size_t i = 0; good && i < 32; ++i) {
    const int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
    good = high >= 0 && low >= 0;
    d.bytes[i] = uint8_t(high << 4 | low);
  }
  if (!good) throw UsageError("'" + std::string(given.substr(0, 80)) + "' is not a SHA-256 digest (64 hexadecimal digits)");
  return d;
}

struct Sha256::Impl {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Impl() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  OVERPROOF_CHECK(impl_->context && EVP_DigestInit_ex(impl_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(const void* data, size_t bytes) {
  OVERPROOF_CHECK(EVP_DigestUpdate(impl_->context, data, bytes) == 1);
}

Digest Sha256::finish() {
  Digest d;
  unsigned length = 0;
  OVERPROOF_CHECK(EVP_DigestFinal_ex(impl_->context, d.bytes.data(), &length) == 1 && length == 32);
  return d;
}

Digest Sha256::so_far() const {
  Sha256 copy;
  OVERPROOF_CHECK(EVP_MD_CTX_copy_ex(copy.impl_->context, impl_->context) == 1);
  return copy.finish();
}

Digest sha256(std::span<const uint8_t> data) {
  Sha256 h;
  h.update(data.data(), data.size());
  return h.finish();
}

Digest sha256(std::string_view text) {
  return sha256(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

Digest sha256_file(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw IoError(file, "cannot open", errno);
  std::vector<uint8_t> buffer(1 << 20);
  Sha256 h;
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int e = errno;
      ::close(fd);
      throw IoError(file, "cannot read", e);
    }
    if (got == 0) break;
    h.update(buffer.data(), size_t(got));
  }
  ::close(fd);
  return h.finish();
}

}  // namespace overproof
