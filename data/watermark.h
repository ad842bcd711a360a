#pragma once
// A keyed watermark in sampled text (Kirchenbauer et al. 2023, "A watermark for large language models", the soft green list).
// Before each token, the key and the tokens before it decide which part of the vocabulary is green; green logits are raised a
// little. The holder of the key can count green tokens in text, or in what a model that was trained on the text predicts (Sander
// et al. 2024). The watermark must be planted while the teacher is sampled: it cannot be added to text afterwards.
//
// Here each token is green by a draw of its own instead of by membership of a list of exact size, so that counts of different
// (context, token) pairs are binomial without approximation.

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/answer.h"
#include "core/config.h"
#include "core/digest.h"
#include "core/file.h"

namespace overproof {

/// The secret and the parameters of detection, in one file (JSON, mode 0600): {"format": "overproof-watermark-1", "secret": 64 hex
/// digits, "green_fraction", "context"}. commitment() is published with the text, so that neither secret nor parameters can be
/// fitted to a suspect later.
class WatermarkKey {
 public:
  WatermarkKey(const std::array<uint8_t, 32>& secret, double green_fraction, int64_t context);
  /// Throws ProvenanceError when others may read or change the file, FormatError when it is not a key, IoError.
  static WatermarkKey read(const fs::path& file);
  /// Makes a file with a new secret, readable by its owner only. Throws UsageError when it exists or a parameter is out of range.
  static WatermarkKey create(const fs::path& file, double green_fraction, int64_t context);

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

struct WatermarkKeyConfig {
  fs::path out;
  double green_fraction = 0.25;
  int64_t context = 2;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "new file; keep it secret");
    v("green-fraction", green_fraction, in_range(0.01, 0.99), "part of the vocabulary that is green");
    v("context", context, in_range(1, 16), "tokens that decide which others are green");
  }
};

/// `overproof watermark-key`.
Answer make_watermark_key(const WatermarkKeyConfig& config);

}  // namespace overproof
