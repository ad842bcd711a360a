#include "data/watermark.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"

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

Digest hmac_sha256(std::span<const uint8_t> key, std::span<const uint8_t> message) {
  std::array<uint8_t, 64> block{};
  if (key.size() > block.size()) {
    const Digest shorter = sha256(key);
    std::copy(shorter.bytes.begin(), shorter.bytes.end(), block.begin());
  } else {
    std::copy(key.begin(), key.end(), block.begin());
  }
  const auto pad = [&](uint8_t with) {
    std::array<uint8_t, 64> padded{};
    for (size_t i = 0; i < padded.size(); ++i) padded[i] = block[i] ^ with;
    return padded;
  };
  Sha256 inner, outer;
  const auto inner_pad = pad(0x36), outer_pad = pad(0x5c);
  inner.update(inner_pad.data(), inner_pad.size());
  inner.update(message.data(), message.size());
  const Digest middle = inner.finish();
  outer.update(outer_pad.data(), outer_pad.size());
  outer.update(middle.bytes.data(), middle.bytes.size());
  return outer.finish();
}

WatermarkKey::WatermarkKey(const std::array<uint8_t, 32>& secret, double green_fraction, int64_t context)
    : secret_(secret), threshold_(0), context_(context) {
  if (!(green_fraction >= 0.01 && green_fraction <= 0.99))
    throw UsageError("a watermark's green fraction must be between 0.01 and 0.99");
  if (context < 1 || context > 16) throw UsageError("a watermark's context must be 1 to 16 tokens");
  threshold_ = uint32_t(std::lround(green_fraction * 0x1p32));
}

WatermarkKey WatermarkKey::read(const fs::path& file) {
  const Json json = read_json(file, 4096);
  const auto refuse = [&](const char* cause) { throw FormatError(file, -1, cause); };
  if (!json.is_object() || json.size() != 4 || !json.contains("format") || json["format"] != kFormat)
    refuse("is no watermark key (four members, format overproof-watermark-1)");
  if (!json.contains("secret") || !json["secret"].is_string() || !json.contains("green_fraction") ||
      !json["green_fraction"].is_number() || !json.contains("context") || !json["context"].is_number_integer())
    refuse("a watermark key has secret, green_fraction and context");
  try {
    return WatermarkKey(Digest::from_hex(json["secret"].get<std::string>()).bytes, json["green_fraction"].get<double>(),
                        json["context"].get<int64_t>());
  } catch (const UsageError& e) {
    throw FormatError(file, -1, e.what());
  }
}

WatermarkKey WatermarkKey::load_or_create(const fs::path& file, double green_fraction, int64_t context) {
  if (!fs::exists(file)) {
    Digest secret;
    if (::getentropy(secret.bytes.data(), secret.bytes.size()) != 0) throw IoError(file, "cannot draw a secret for", errno);
    WatermarkKey(secret.bytes, green_fraction, context);  // checks the parameters before anything is written
    const std::string text =
        Json{{"format", kFormat}, {"secret", secret.hex()}, {"green_fraction", green_fraction}, {"context", context}}.dump(1) +
        "\n";
    std::error_code error;
    if (file.has_parent_path()) fs::create_directories(file.parent_path(), error);
    if (error) throw IoError(file.parent_path(), "cannot make the folder", error.value());
    // Never readable by others, not even for a moment; a second process that makes it at the same time loses.
    const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST) throw IoError(file, "cannot create", errno);
    if (fd >= 0) {
      const bool written = ::write(fd, text.data(), text.size()) == ssize_t(text.size()) && ::fsync(fd) == 0;
      const int fault = errno;
      ::close(fd);
      if (!written) {
        ::unlink(file.c_str());
        throw IoError(file, "cannot write", fault);
      }
    }
  }
  WatermarkKey key = read(file);
  if (std::abs(key.green_fraction() - green_fraction) > 1e-9 || key.context() != context)
    throw UsageError(fmt::format(
        "{}: this key has a green fraction of {:.6g} and a context of {} tokens; sample with these, or name a new file",
        file.string(), key.green_fraction(), key.context()));
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
