#pragma once
// SHA-256 (FIPS 180-4), the one digest of the project.

#include <array>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace overproof {

struct Digest {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const Digest&) const = default;
  std::string hex() const;                       ///< 64 lower-case digits
  static Digest from_hex(std::string_view hex);  ///< throws UsageError unless 64 hex digits, with or without "sha256:" before them
};

/// The state of SHA-256 between two blocks of 64 bytes: a hasher can resume from it without the bytes before it.
struct Sha256State {
  static constexpr int64_t kBlock = 64;
  std::array<uint32_t, 8> words{};
  int64_t bytes = 0;  ///< hashed so far: a multiple of kBlock
  bool operator==(const Sha256State&) const = default;
};

struct HashJob;

/// Streaming hasher: update any number of times, finish once. Copies are independent.
class Sha256 {
 public:
  Sha256();
  /// Resumes from a state. The caller is responsible for it: which bytes led to a state cannot be checked here.
  explicit Sha256(const Sha256State& state);
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  Digest finish();
  Digest so_far() const;      ///< of the bytes so far; more may follow
  Sha256State state() const;  ///< for a multiple of kBlock bytes only
  int64_t bytes() const { return int64_t(bytes_); }

 private:
  friend void update_together(std::span<const HashJob> jobs);
  /// Completes and compresses a partial block, and keeps the bytes after the last whole block; returns the whole blocks between.
  std::span<const uint8_t> take_ends(const uint8_t* data, size_t bytes);

  std::array<uint32_t, 8> words_;
  std::array<uint8_t, 64> rest_;  // bytes_ % 64 of them
  uint64_t bytes_ = 0;
};

/// The next bytes of one message.
struct HashJob {
  Sha256* hash;
  const uint8_t* data;
  size_t bytes;
};

/// hash->update(data, bytes) for every job; each hash may occur once. Several messages at a time where the processor has SHA
/// instructions, which a single message uses by half (core/sha256_ni.h).
void update_together(std::span<const HashJob> jobs);

/// The digests of `count` short messages: `prefix` and then one of the consecutive parts of `bytes` each (at most 118). Several
/// at a time as above. `digests` may overlap `parts` when both begin at the same address and `bytes` is at least 32.
void sha256_parts(uint8_t prefix, const uint8_t* parts, size_t bytes, size_t count, Digest* digests);

/// For tests and benchmarks: false selects OpenSSL's implementation even where there are SHA instructions.
void use_sha_instructions(bool use);

Digest sha256(std::span<const uint8_t> data);
Digest sha256(std::string_view text);
/// Streams the file; throws IoError.
Digest sha256_file(const std::filesystem::path& file);

}  // namespace overproof
