#pragma once
// A keyed watermark in sampled text (Kirchenbauer et al. 2023, "A watermark for large language models", the soft green list).
// Before each token, the key and the tokens before it decide which part of the vocabulary is green; green logits are raised a
// little. Who holds the key can count green tokens, in text, or in what a model that was trained on the text predicts (Sander et
// al. 2024). It must be planted while the teacher is sampled: nothing can add it to text afterwards.
//
// Here each token is green by a draw of its own rather than by membership of a list of exact size, so that counts of
// different (context, token) pairs are binomial without any approximation.

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/digest.h"
#include "core/file.h"

namespace overproof {

/// The secret and what detection depends on. Kept in one file (JSON, mode 0600): {"format": "overproof-watermark-1", "secret": 64
/// hex digits, "green_fraction", "context"}. None of it can be fitted to a suspect later: commitment() is published with the
/// text.
class WatermarkKey {
 public:
  WatermarkKey(const std::array<uint8_t, 32>& secret, double green_fraction, int64_t context);
  /// Throws FormatError naming what is wrong, IoError.
  static WatermarkKey read(const fs::path& file);
  /// Reads the file, or makes one with a new secret and these parameters (which an existing file must have, else UsageError).
  static WatermarkKey load_or_create(const fs::path& file, double green_fraction, int64_t context);

  double green_fraction() const { return double(threshold_) * 0x1p-32; }  ///< as it is applied: a multiple of 2^-32
  int64_t context() const { return context_; }                            ///< tokens that decide the green list, 1 .. 16
  /// SHA-256 over "overproof watermark key v1", the parameters and the secret.
  Digest commitment() const;

  /// Which tokens are green after `context` (its last context() tokens, oldest first).
  class GreenList {
   public:
    bool green(int32_t token) const;

   private:
    friend class WatermarkKey;
    std::array<uint32_t, 2> key_{}, high_{};
    uint32_t threshold_ = 0;
  };
  /// HMAC-SHA-256 (RFC 2104) of the context under the secret keys Philox4x32-10; token v has word v % 4 of block v / 4.
  GreenList after(std::span<const int32_t> context) const;

 private:
  std::array<uint8_t, 32> secret_;
  uint32_t threshold_;
  int64_t context_;
};

/// HMAC-SHA-256.
Digest hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> message);

}  // namespace overproof
