// The weights' way into a GGUF file. Declared in formats/gguf_plan.h.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/float_bits.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "formats/gguf_names.h"
#include "formats/gguf_plan.h"

namespace overproof {
namespace {

/// f32 bytes that one task reads and converts: rows that stay in the second-level cache between the two.
constexpr int64_t kTaskBytes = int64_t{128} << 10;

}  // namespace

GgufPartReader::GgufPartReader(const TensorSource& source, const GgufPart& part)
    : source_(source), part_(part), rows_(part.rows) {
  const TensorInfo* info = source.find(part.source);
  OVERPROOF_CHECK(info && !info->shape.empty());
  columns_ = info->shape.back();
  if (info->shape.size() == 2 && !part.transposed) return;
  if (info->shape.size() == 1) {  // its rows are single values
    std::vector<float> all = source.read_all_f32(part.source);
    held_.resize(all.size());
    for (size_t i = 0; i < all.size(); ++i) held_[i] = all[size_t(row_of_interleaved(int64_t(i), part.half_head))];
    return;
  }
  // A row of the source is an expert: the part lies in those from `first` on.
  const int64_t each = info->shape.size() == 2 ? 1 : info->row_elements() / columns_;
  const int64_t first = part.first_row / each, last = (part.first_row + part.rows + each - 1) / each;
  std::vector<float> whole(size_t((last - first) * info->row_elements()));
  source.read_f32(part.source, first, last - first, whole);
  const auto begin = whole.begin() + (part.first_row - first * each) * columns_;
  held_.assign(begin, begin + part.rows * columns_);
  if (!part.transposed) return;
  whole.swap(held_);
  held_.resize(size_t(part.rows * columns_));
  for (int64_t r = 0; r < part.rows; ++r) {
    for (int64_t c = 0; c < columns_; ++c) held_[size_t(c * part.rows + r)] = whole[size_t(r * columns_ + c)];
  }
  rows_ = columns_;
  columns_ = part.rows;
}

void GgufPartReader::read(int64_t first, int64_t rows, std::span<float> out) const {
  OVERPROOF_CHECK(first >= 0 && rows >= 0 && first + rows <= rows_ && int64_t(out.size()) == rows * columns_);
  if (!held_.empty()) {
    std::copy_n(held_.begin() + first * columns_, rows * columns_, out.begin());
  } else if (part_.half_head == 0) {
    source_.read_f32(part_.source, part_.first_row + first, rows, out);
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = part_.first_row + row_of_interleaved(first + r, part_.half_head);
      source_.read_f32(part_.source, row, 1, out.subspan(size_t(r * columns_), size_t(columns_)));
    }
  }
}

void convert_to_float_type(const GgufTensorInfo& info, std::span<const float> rows, std::span<uint8_t> out) {
  OVERPROOF_CHECK(info.type == GgmlType::f32 || info.type == GgmlType::f16 || info.type == GgmlType::bf16);
  if (info.type == GgmlType::f32) OVERPROOF_CHECK(out.size() == rows.size_bytes());
  else OVERPROOF_CHECK(out.size() == rows.size() * 2);
  for (size_t i = 0; i < rows.size(); ++i) {
    const float v = rows[i];
    if (!std::isfinite(v)) throw UsageError(fmt::format("{}: it holds an infinity or NaN, so it is no weight", info.name));
    if (info.type == GgmlType::f32) {
      std::memcpy(&out[i * 4], &v, 4);
      continue;
    }
    const uint16_t narrow = info.type == GgmlType::f16 ? f32_to_f16(v) : f32_to_bf16(v);
    if (info.type == GgmlType::f16 && (narrow & 0x7fff) == 0x7c00) {
      throw UsageError(fmt::format("{}: it holds {}, which is too large for F16 (65504); write bf16 or f32", info.name, v));
    }
    std::memcpy(&out[i * 2], &narrow, 2);
  }
}

void write_gguf(const TensorSource& source, const GgufPlan& plan, const GgufConverter& converter, OutputFolder& folder,
                const std::string& name, const std::function<void(int64_t)>& step, int64_t block_bytes) {
  GgufWriter writer(folder, name, plan.metadata, plan.infos());
  std::vector<uint8_t> bytes;
  for (const GgufOutput& output : plan.outputs) {
    const GgufTensorInfo& info = output.info;
    const int64_t columns = info.shape.back(), row_bytes = info.row_bytes();
    const auto convert = [&](std::span<const float> rows, std::span<uint8_t> out) {
      const bool plain = info.type == GgmlType::f32 || info.type == GgmlType::f16 || info.type == GgmlType::bf16;
      if (plain) convert_to_float_type(info, rows, out);
      else converter(info, rows, out);
    };
    if (output.parts.empty()) {
      bytes.resize(size_t(info.bytes()));
      convert(output.values, bytes);
      writer.append(bytes.data(), bytes.size());
      if (step) step(info.elements());
    }
    for (const GgufPart& part : output.parts) {
      throw_if_interrupted();
      const GgufPartReader reader(source, part);
      OVERPROOF_CHECK(reader.columns() == columns);
      const int64_t block = std::max<int64_t>(1, block_bytes / (columns * 4)),
                    grain = std::max<int64_t>(1, kTaskBytes / (columns * 4));
      for (int64_t first = 0; first < reader.rows(); first += block) {
        const int64_t rows = std::min(block, reader.rows() - first);
        bytes.resize(size_t(rows * row_bytes));
        parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
          thread_local std::vector<float> values;
          values.resize(size_t((end - begin) * columns));
          reader.read(first + begin, end - begin, values);
          convert(values, std::span(bytes).subspan(size_t(begin * row_bytes), size_t((end - begin) * row_bytes)));
        });
        writer.append(bytes.data(), bytes.size());
        if (step) step(rows * columns);
        throw_if_interrupted();
      }
    }
  }
  writer.close();
}

}  // namespace overproof
