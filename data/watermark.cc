#include "data/watermark.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/json_object.h"
#include "core/private_file.h"
#include "core/rng.h"
#include "provenance/hmac.h"

namespace overproof {
namespace {

constexpr const char* kFormat = "overproof-watermark-1";

void put_u32(std::vector<uint8_t>& bytes, uint32_t value) {
  for (int i = 0; i < 4; ++i) bytes.push_back(uint8_t(value >> (8 * i)));
}

uint32_t word_of(const Digest& digest, size_t at) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | digest.bytes[at + i];
  return value;
}

}  // namespace

WatermarkKey::WatermarkKey(const std::array<uint8_t, 32>& secret, double green_fraction, int64_t context)
    : secret_(secret), threshold_(0), context_(context) {
  if (!(green_fraction >= 0.01 && green_fraction <= 0.99))
    throw UsageError("a watermark's green fraction must be between 0.01 and 0.99");
  if (context < 1 || context > 16) throw UsageError("a watermark's context must be 1 to 16 tokens");
  threshold_ = uint32_t(std::lround(green_fraction * 0x1p32));
}

WatermarkKey WatermarkKey::read(const fs::path& file) {
  const Json json = parse_json(read_private_file(file, 4096, "the watermark key"), file);
  const JsonObject key(json, file);
  key.expect_text("format", kFormat);
  key.expect_only({"format", "secret", "green_fraction", "context"});
  try {
    return WatermarkKey(key.digest("secret").bytes, key.number("green_fraction"), key.integer("context", 1, 16));
  } catch (const UsageError& e) {
    throw FormatError(file, -1, e.what());
  }
}

WatermarkKey WatermarkKey::create(const fs::path& file, double green_fraction, int64_t context) {
  Digest secret;
  if (::getentropy(secret.bytes.data(), secret.bytes.size()) != 0) throw IoError(file, "cannot draw a secret for", errno);
  const WatermarkKey key(secret.bytes, green_fraction, context);
  const Json json = {{"format", kFormat}, {"secret", secret.hex()}, {"green_fraction", green_fraction}, {"context", context}};
  if (!create_private_file(file, json.dump(1) + "\n", "the watermark key"))
    throw UsageError(fmt::format("{}: exists already; a watermark key is never overwritten. Name a new file", file.string()));
  return key;
}

Digest WatermarkKey::commitment() const {
  std::vector<uint8_t> message;
  const std::string_view label = "overproof watermark key v1";
  message.insert(message.end(), label.begin(), label.end());
  put_u32(message, threshold_);
  put_u32(message, uint32_t(context_));
  message.insert(message.end(), secret_.begin(), secret_.end());
  return sha256(message);
}

Answer make_watermark_key(const WatermarkKeyConfig& config) {
  if (config.out.empty()) throw UsageError("option 'out' is missing: the new file of the key");
  const std::string commitment =
      "sha256:" + WatermarkKey::create(config.out, config.green_fraction, config.context).commitment().hex();
  return {{{"out", config.out.string()}, {"commitment", commitment}},
          fmt::format("{}: new watermark key; keep it secret. Commitment {}\n", config.out.string(), commitment)};
}

WatermarkKey::GreenList WatermarkKey::after(std::span<const int32_t> context) const {
  OVERPROOF_CHECK(int64_t(context.size()) >= context_);
  std::vector<uint8_t> message;
  const std::string_view label = "overproof watermark v1";
  message.insert(message.end(), label.begin(), label.end());
  for (const int32_t token : context.last(size_t(context_))) put_u32(message, uint32_t(token));
  const Digest mac = hmac_sha256(secret_, message);
  GreenList list;
  list.key_ = {word_of(mac, 0), word_of(mac, 4)};
  list.high_ = {word_of(mac, 8), word_of(mac, 12)};
  list.threshold_ = threshold_;
  return list;
}

bool WatermarkKey::GreenList::green(int32_t token) const {
  const auto id = uint32_t(token);
  return philox4x32({id / 4, 0, high_[0], high_[1]}, key_)[id % 4] < threshold_;
}

}  // namespace overproof
