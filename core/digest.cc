#include "core/digest.h"

#include <fcntl.h>
#define OPENSSL_SUPPRESS_DEPRECATED  // the newer interface cannot start from a state
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/sha256_ni.h"

namespace overproof {
namespace {

std::atomic<bool> g_use_instructions = true;

Sha256Kernel kernel(int lanes) { return g_use_instructions.load(std::memory_order_relaxed) ? sha256_ni_kernel(lanes) : nullptr; }

void compress_by_openssl(uint32_t* words, const uint8_t* data, size_t blocks) {
  SHA256_CTX context{};
  std::copy_n(words, 8, context.h);
  context.md_len = SHA256_DIGEST_LENGTH;
  OVERPROOF_CHECK(SHA256_Update(&context, data, blocks * 64) == 1 && context.num == 0);
  std::copy_n(context.h, 8, words);
}

void compress_lanes(int lanes, uint32_t* const* words, const uint8_t* const* data, size_t blocks) {
  if (const Sha256Kernel together = kernel(lanes)) together(words, data, blocks);
  else
    for (int l = 0; l < lanes; ++l) compress_by_openssl(words[l], data[l], blocks);
}

void compress(uint32_t* words, const uint8_t* data, size_t blocks) {
  if (blocks > 0) compress_lanes(1, &words, &data, blocks);
}

// FIPS 180-4, section 5.3.3.
constexpr std::array<uint32_t, 8> kInitialWords = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void store_big_endian(uint64_t value, uint8_t* to) {
  if constexpr (std::endian::native == std::endian::little) value = __builtin_bswap64(value);
  std::memcpy(to, &value, sizeof value);
}

Digest digest_of(std::array<uint32_t, 8> words) {
  if constexpr (std::endian::native == std::endian::little)
    for (uint32_t& word : words) word = __builtin_bswap32(word);
  return std::bit_cast<Digest>(words);
}

}  // namespace

void use_sha_instructions(bool use) { g_use_instructions = use; }

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

Sha256::Sha256() : words_(kInitialWords), rest_{} {}

Sha256::Sha256(const Sha256State& state) : words_(state.words), rest_{}, bytes_(uint64_t(state.bytes)) {
  OVERPROOF_CHECK(state.bytes >= 0 && state.bytes % Sha256State::kBlock == 0);
}

Sha256State Sha256::state() const {
  OVERPROOF_CHECK(bytes_ % 64 == 0);
  return {words_, int64_t(bytes_)};
}

std::span<const uint8_t> Sha256::take_ends(const uint8_t* data, size_t bytes) {
  const size_t have = bytes_ % 64, lacking = have > 0 ? std::min(bytes, 64 - have) : 0;
  bytes_ += bytes;
  if (lacking > 0) {
    std::memcpy(rest_.data() + have, data, lacking);
    data += lacking;
    bytes -= lacking;
    if (have + lacking < 64) return {};
    compress(words_.data(), rest_.data(), 1);
  }
  const size_t whole = bytes / 64 * 64;
  if (bytes > whole) std::memcpy(rest_.data(), data + whole, bytes - whole);
  return {data, whole};
}

void Sha256::update(const void* data, size_t bytes) {
  const auto whole = take_ends(static_cast<const uint8_t*>(data), bytes);
  compress(words_.data(), whole.data(), whole.size() / 64);
}

Digest Sha256::finish() {
  uint8_t padding[72] = {0x80};
  const size_t zeros = (bytes_ % 64 < 56 ? 56 : 120) - bytes_ % 64;
  store_big_endian(bytes_ * 8, padding + zeros);
  update(padding, zeros + 8);
  return digest_of(words_);
}

Digest Sha256::so_far() const { return Sha256(*this).finish(); }

void update_together(std::span<const HashJob> jobs) {
  uint32_t* states[kSha256Lanes];
  const uint8_t* data[kSha256Lanes];
  size_t blocks[kSha256Lanes];
  int lanes = 0;
  for (size_t next = 0; next < jobs.size() || lanes > 0;) {
    while (lanes < kSha256Lanes && next < jobs.size()) {
      const HashJob& job = jobs[next++];
      const auto whole = job.hash->take_ends(job.data, job.bytes);
      if (whole.empty()) continue;
      states[lanes] = job.hash->words_.data();
      data[lanes] = whole.data();
      blocks[lanes++] = whole.size() / 64;
    }
    if (lanes == 0) continue;
    const size_t step = *std::min_element(blocks, blocks + lanes);
    compress_lanes(lanes, states, data, step);
    // A finished lane takes the next job.
    int left = 0;
    for (int l = 0; l < lanes; ++l) {
      if (blocks[l] == step) continue;
      states[left] = states[l];
      data[left] = data[l] + step * 64;
      blocks[left++] = blocks[l] - step;
    }
    lanes = left;
  }
}

void sha256_parts(uint8_t prefix, const uint8_t* parts, size_t bytes, size_t count, Digest* digests) {
  OVERPROOF_CHECK(bytes <= 118);
  const size_t blocks = bytes + 1 + 9 <= 64 ? 1 : 2;
  uint8_t messages[kSha256Lanes][128] = {};
  std::array<uint32_t, 8> words[kSha256Lanes];
  uint32_t* states[kSha256Lanes];
  const uint8_t* data[kSha256Lanes];
  for (int l = 0; l < kSha256Lanes; ++l) {
    messages[l][0] = prefix;
    messages[l][1 + bytes] = 0x80;
    store_big_endian((bytes + 1) * 8, messages[l] + blocks * 64 - 8);
    states[l] = words[l].data();
    data[l] = messages[l];
  }
  for (size_t first = 0; first < count; first += kSha256Lanes) {
    const int lanes = int(std::min<size_t>(kSha256Lanes, count - first));
    for (int l = 0; l < lanes; ++l) {
      std::memcpy(messages[l] + 1, parts + (first + size_t(l)) * bytes, bytes);
      words[l] = kInitialWords;
    }
    compress_lanes(lanes, states, data, blocks);
    for (int l = 0; l < lanes; ++l) digests[first + size_t(l)] = digest_of(words[l]);
  }
}

Digest sha256(std::span<const uint8_t> data) {
  Sha256 h;
  h.update(data.data(), data.size());
  return h.finish();
}

Digest sha256(std::string_view text) { return sha256(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())); }

Digest sha256_file(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw IoError(file, "cannot open", errno);
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {  // a device has no end, and a pipe without a writer no content
    ::close(fd);
    throw IoError(file, "is not a regular file", 0);
  }
  std::vector<uint8_t> buffer(size_t{256} << 10);  // hashed while it is in the cache
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
