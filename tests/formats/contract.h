#pragma once
// What every TensorSource promises to those who read files past it.

#include <fcntl.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats/integer_codes.h"
#include "formats/tensor_source.h"

namespace overproof::test {

inline std::vector<uint8_t> pread_all(const std::filesystem::path& file, int64_t offset, int64_t bytes) {
  std::vector<uint8_t> data(static_cast<size_t>(bytes));
  const int fd = open(file.c_str(), O_RDONLY);
  REQUIRE(fd >= 0);
  REQUIRE(pread(fd, data.data(), data.size(), offset) == ssize_t(bytes));
  close(fd);
  return data;
}

/// Rows [first, first + rows) come out the same, bit for bit, as part of the whole tensor, read alone, and decoded from the
/// file's bytes.
inline void check_rows(const TensorSource& source, const TensorInfo& t, const std::vector<float>& all, int64_t first,
                       int64_t rows) {
  CAPTURE(t.name, first, rows);
  const int64_t columns = t.row_elements();
  const float* wanted = all.data() + first * columns;
  std::vector<float> read(size_t(rows * columns)), decoded(read.size());
  source.read_f32(t.name, first, rows, read);
  CHECK((read.empty() || std::memcmp(read.data(), wanted, read.size() * sizeof(float)) == 0));
  const auto extent = source.extent(t.name);
  if (!extent) return;
  const std::vector<uint8_t> stored =
      pread_all(source.files().at(size_t(extent->file)), extent->offset + first * extent->row_bytes, rows * extent->row_bytes);
  source.decode_rows(t.name, first, rows, stored, decoded);
  CHECK((decoded.empty() || std::memcmp(decoded.data(), wanted, decoded.size() * sizeof(float)) == 0));
}

/// The codes of rows [first, first + rows) with their factors make the values of `all`, bit for bit.
inline void check_codes(const IntegerCodes& source, const TensorInfo& t, const std::vector<float>& all, int64_t first, int64_t rows) {
  const CodeLayout layout = *source.code_layout(t.name);
  const int64_t columns = t.row_elements(), blocks = layout.blocks(columns);
  CAPTURE(t.name, first, rows, layout.block);
  std::vector<int8_t> codes(size_t(rows * columns));
  std::vector<float> scales(size_t(rows * blocks)), offsets(layout.has_offsets ? scales.size() : 0);
  source.read_codes(t.name, first, rows, {codes, scales, offsets});
  int64_t different = 0;
  for (int64_t i = 0; i < rows * columns; ++i) {
    const auto factor = size_t(i / columns * blocks + i % columns / layout.block);
    float value = float(codes[size_t(i)]) * scales[factor];
    if (layout.has_offsets) value += offsets[factor];
    const float wanted = all[size_t(first * columns + i)];
    different += std::memcmp(&value, &wanted, sizeof value) != 0 && !(std::isnan(value) && std::isnan(wanted));
  }
  CHECK(different == 0);
}

/// How many tensors of the source have codes.
inline int64_t tensors_with_codes(const TensorSource& source) {
  const auto* codes = dynamic_cast<const IntegerCodes*>(&source);
  return codes ? std::ranges::count_if(source.tensors(), [&](const TensorInfo& t) { return codes->code_layout(t.name).has_value(); }) : 0;
}

/// Checks all tensors in pieces of several sizes. Returns how many have an extent.
inline int64_t check_contract(const TensorSource& source) {
  int64_t with_extent = 0;
  CHECK_FALSE(source.extent("no such tensor"));
  for (const TensorInfo& t : source.tensors()) {
    if (!has_values(t.dtype)) continue;
    CAPTURE(t.name);
    const auto extent = source.extent(t.name);
    with_extent += extent.has_value();
    const int64_t unit = extent ? extent->row_unit : 1, rows = t.shape.empty() ? 1 : t.shape[0];
    REQUIRE(unit > 0);
    const std::vector<float> all = source.read_all_f32(t.name);
    for (const int64_t piece : {rows, unit, 3 * unit}) {
      for (int64_t first = 0; first < rows; first += std::max<int64_t>(1, piece))
        check_rows(source, t, all, first, std::min(piece, rows - first));
    }
    check_rows(source, t, all, rows, 0);
    if (const auto* codes = dynamic_cast<const IntegerCodes*>(&source); codes && codes->code_layout(t.name)) {
      check_codes(*codes, t, all, 0, rows);
      if (rows > 2) check_codes(*codes, t, all, 1, rows - 2);
    }
    if (rows > 2) {  // single rows need no unit unless the caller reads their bytes
      std::vector<float> one(size_t(t.row_elements()));
      source.read_f32(t.name, 1, 1, one);
      CHECK((one.empty() || std::memcmp(one.data(), all.data() + t.row_elements(), one.size() * sizeof(float)) == 0));
    }
  }
  return with_extent;
}

}  // namespace overproof::test
