#pragma once
// Event files of TensorBoard: scalars over the steps of a training. A file is a sequence of TFRecords
// (tensorflow/core/lib/io/record_writer.h)
//
//   U64 length | U32 masked CRC-32C of these 8 bytes | payload | U32 masked CRC-32C of the payload        little-endian
//
// masked CRC = rotate right by 15, plus 0xa282ead8. A payload is a protocol buffer `Event` (tensorflow/core/util/event.proto):
//   1 wall_time double | 2 step int64 | 3 file_version string, in the first record | 5 summary { 1 value { 1 tag | 2 simple_value float } }
// Fields of value zero are left out.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace overproof {

/// TensorBoard reads files whose name contains this.
inline constexpr const char* kEventFileMark = "tfevents";

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
uint32_t crc32c(std::span<const uint8_t> bytes);

/// The record that a file begins with. `wall_time` in seconds since 1970.
std::string event_file_start(double wall_time);

/// A record of the values of one step, by tag.
std::string scalar_record(double wall_time, int64_t step, const std::vector<std::pair<std::string, double>>& values);

}  // namespace overproof
