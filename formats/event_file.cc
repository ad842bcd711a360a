#include "formats/event_file.h"

#include <array>
#include <bit>
#include <cstring>

namespace overproof {
namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    table[byte] = crc;
  }
  return table;
}

std::span<const uint8_t> bytes_of(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

template <class T>
void put_little_endian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(char(value >> (8 * i)));
}

void put_varint(std::string& out, uint64_t value) {
  for (; value > 127; value >>= 7) out.push_back(char((value & 127) | 128));
  out.push_back(char(value));
}

// Wire types of protocol buffers: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
void put_key(std::string& out, int field, int wire_type) { put_varint(out, uint64_t(field << 3 | wire_type)); }

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event(double wall_time, int64_t step) {
  std::string out;
  if (wall_time != 0) put_key(out, 1, 1), put_little_endian(out, std::bit_cast<uint64_t>(wall_time));
  if (step != 0) put_key(out, 2, 0), put_varint(out, uint64_t(step));
  return out;
}

std::string record(std::string_view payload) {
  const auto masked = [](std::string_view text) { return std::rotr(crc32c(bytes_of(text)), 15) + 0xa282ead8u; };
  std::string out;
  put_little_endian(out, uint64_t(payload.size()));
  put_little_endian(out, masked(out));
  out += payload;
  put_little_endian(out, masked(payload));
  return out;
}

}  // namespace

uint32_t crc32c(std::span<const uint8_t> bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~0u;
  for (const uint8_t byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ byte) & 255];
  return ~crc;
}

std::string event_file_start(double wall_time) {
  std::string out = event(wall_time, 0);
  put_bytes(out, 3, "brain.Event:2");
  return record(out);
}

std::string scalar_record(double wall_time, int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [tag, number] : values) {
    std::string value;
    put_bytes(value, 1, tag);
    put_key(value, 2, 5);  // part of a oneof: written also where it is zero
    put_little_endian(value, std::bit_cast<uint32_t>(float(number)));
    put_bytes(summary, 1, value);
  }
  std::string out = event(wall_time, step);
  put_bytes(out, 5, summary);
  return record(out);
}

}  // namespace overproof
