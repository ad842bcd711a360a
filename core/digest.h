#pragma once
// SHA-256 (FIPS 180-4), the one digest of the project.

#include <array>
#include <compare>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace overproof {

struct Digest {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const Digest&) const = default;
  std::string hex() const;  ///< 64 lower-case digits
  static Digest from_hex(std::string_view hex);  ///< throws UsageError unless 64 hex digits; "sha256:" may stand before them
};

/// Streaming hasher: update any number of times, finish once.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  Digest finish();
  Digest so_far() const;  ///< of what has come; more may follow

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

Digest sha256(std::span<const uint8_t> data);
Digest sha256(std::string_view text);
/// Streams the file in 1 MiB reads; throws IoError.
Digest sha256_file(const std::filesystem::path& file);

}  // namespace overproof
