#include "formats/gguf_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "formats/gguf_names.h"

namespace overproof {

GgufPartReader::GgufPartReader(const TensorSource& source, const GgufPart& part)
    : source_(source), part_(part), rows_(part.rows) {
  const TensorInfo* info = source.find(part.source);
  OVERPROOF_CHECK(info && !info->shape.empty());
  columns_ = info->shape.back();
  if (info->shape.size() == 2 && !part.transposed) return;
  if (info->shape.size() == 1) {  // its rows are single values
    std::vector<float> all = source.read_all_f32(part.source);
    held_.resize(all.size());
    for (size_t i = 0; i < all.size(); ++i) held_[i] = part.factor * all[size_t(row_of_interleaved(int64_t(i), part.half_head))];
    return;
  }
  // A row of the source is an expert: the part is in those from `first` on.
  const int64_t each = info->shape.size() == 2 ? 1 : info->row_elements() / columns_;
  const int64_t first = part.first_row / each, last = (part.first_row + part.rows + each - 1) / each;
  std::vector<float> whole(size_t((last - first) * info->row_elements()));
  source.read_f32(part.source, first, last - first, whole);
  const auto begin = whole.begin() + (part.first_row - first * each) * columns_;
  held_.assign(begin, begin + part.rows * columns_);
  scale(held_);
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
    return;
  }
  if (part_.half_head == 0) {
    source_.read_f32(part_.source, part_.first_row + first, rows, out);
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = part_.first_row + row_of_interleaved(first + r, part_.half_head);
      source_.read_f32(part_.source, row, 1, out.subspan(size_t(r * columns_), size_t(columns_)));
    }
  }
  scale(out);
}

void GgufPartReader::scale(std::span<float> values) const {
  if (part_.factor != 1.0f)
    for (float& value : values) value *= part_.factor;
}

GgufParts::GgufParts(const TensorSource& source, const GgufPlan& plan) : source_(source) {
  for (const GgufOutput& output : plan.outputs) {
    if (output.parts.empty()) {
      OVERPROOF_CHECK(table_.add({output.info.name, DType::f32, {int64_t(output.values.size())}}));
      entries_.push_back({&output, nullptr});
    }
    for (size_t k = 0; k < output.parts.size(); ++k) {
      const GgufPart& part = output.parts[k];
      const TensorInfo& info = *source.find(part.source);
      const bool by_rows = info.shape.size() == 2 && !part.transposed && part.factor == 1.0f;  // stored rows may be copied as they are
      std::vector<int64_t> shape{part.rows, info.shape.back()};
      if (part.transposed) std::swap(shape[0], shape[1]);
      if (info.shape.size() == 1) shape = info.shape;
      const bool alone = output.parts.size() == 1;
      OVERPROOF_CHECK(table_.add({alone ? output.info.name : fmt::format("{}#{}", output.info.name, k), info.dtype, shape}));
      entries_.push_back({&output, &part, by_rows, info.shape.size() == 3 && !part.transposed && extent_in_stack(part)});
    }
  }
}

void GgufParts::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const TensorInfo* tensor = find(name);
  OVERPROOF_CHECK(tensor);
  const Entry& e = entry(tensor);
  if (!e.part) {
    std::copy_n(e.output->values.begin() + first_row, rows, out.begin());
    return;
  }
  // Parts that are not read by rows are small, or whole experts: they are not cached between calls.
  const GgufPartReader reader(source_, *e.part);
  if (tensor->shape.size() > 1) return reader.read(first_row, rows, out);
  std::vector<float> all(size_t(tensor->elements()));  // a vector is one row to the plan, and rows of one element here
  reader.read(0, 1, all);
  std::copy_n(all.begin() + first_row, rows, out.begin());
}

std::optional<RowExtent> GgufParts::extent_in_stack(const GgufPart& part) const {
  const TensorInfo& info = *source_.find(part.source);
  std::optional<RowExtent> extent = source_.extent(part.source);
  if (!extent || !has_values(info.dtype) || extent->row_unit != 1 || extent->row_bytes != info.row_bytes()) return std::nullopt;
  const int64_t row_bytes = info.shape.back() * dtype_bytes(info.dtype);
  return RowExtent{extent->file, extent->offset + part.first_row * row_bytes, row_bytes, 1};
}

std::optional<RowExtent> GgufParts::extent(std::string_view name) const {
  const TensorInfo* tensor = find(name);
  if (tensor && entry(tensor).of_stack) return extent_in_stack(*entry(tensor).part);
  if (!tensor || !entry(tensor).by_rows) return std::nullopt;
  const GgufPart& part = *entry(tensor).part;
  std::optional<RowExtent> extent = source_.extent(part.source);
  if (!extent || part.first_row % extent->row_unit != 0) return std::nullopt;
  extent->offset += part.first_row * extent->row_bytes;
  // Both the file and the output may shuffle rows within heads; whole units of both stay together.
  if (part.half_head > 0) extent->row_unit = std::lcm(extent->row_unit, 2 * part.half_head);
  return extent;
}

void GgufParts::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                            std::span<float> out) const {
  const TensorInfo* tensor = find(name);
  OVERPROOF_CHECK(tensor && (entry(tensor).by_rows || entry(tensor).of_stack));
  if (entry(tensor).of_stack) {
    OVERPROOF_CHECK(int64_t(stored.size()) == rows * tensor->row_elements() * dtype_bytes(tensor->dtype));
    return elements_to_f32(tensor->dtype, stored.data(), out);
  }
  const GgufPart& part = *entry(tensor).part;
  if (part.half_head == 0) return source_.decode_rows(part.source, part.first_row + first_row, rows, stored, out);
  OVERPROOF_CHECK(first_row % (2 * part.half_head) == 0);
  thread_local std::vector<float> straight;
  straight.resize(out.size());
  source_.decode_rows(part.source, part.first_row + first_row, rows, stored, straight);
  const int64_t columns = tensor->row_elements();
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(straight.begin() + row_of_interleaved(r, part.half_head) * columns, columns, out.begin() + r * columns);
}

}  // namespace overproof
