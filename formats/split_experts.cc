#include "formats/split_experts.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace overproof {

bool SplitExperts::needed(const TensorSource& source, const Architecture& architecture, const fs::path& folder) {
  return std::ranges::any_of(source.tensors(), [&](const TensorInfo& t) {
    return !architecture.split(folder, t).empty() || architecture.saved_name(t.name) != t.name;
  });
}

SplitExperts::SplitExperts(std::unique_ptr<TensorSource> source, const SafetensorsCheckpoint& stored,
                           const Architecture& architecture, const fs::path& folder)
    : source_(std::move(source)), stored_(stored), folder_(folder) {
  const auto add = [&](TensorInfo info, Origin from) {
    if (table_.find(info.name)) {
      throw FormatError(folder, -1, fmt::format("duplicate tensor '{}', the second one from '{}'", info.name, from.name));
    }
    table_.add(std::move(info));
    origins_.push_back(std::move(from));
  };
  for (const TensorInfo& t : source_->tensors()) {
    // What has no values stays one tensor, which nothing reads.
    const std::vector<TensorPart> parts = has_values(t.dtype) ? architecture.split(folder, t) : std::vector<TensorPart>();
    if (parts.empty()) add({architecture.saved_name(t.name), t.dtype, t.shape}, {t.name});
    for (const TensorPart& part : parts) {
      const int64_t row = part.expert * t.shape[1] + part.first_row;
      add({part.name, t.dtype, {part.rows, t.shape[2]}}, {t.name, true, row * t.shape[2] * dtype_bytes(t.dtype)});
    }
  }
}

std::vector<std::string> SplitExperts::split_modules() const {
  std::vector<std::string> modules;
  for (const TensorInfo& t : table_.list()) {
    if (origin(t).is_part) modules.push_back(t.name.substr(0, t.name.rfind('.')));
  }
  return modules;
}

void SplitExperts::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const TensorInfo& t = table_.list()[table_.row_range(folder_, name, first_row, rows, out)];
  const Origin& from = origin(t);
  if (!from.is_part) return source_->read_f32(from.name, first_row, rows, out);
  elements_to_f32(t.dtype, stored_.bytes(from.name).data() + from.offset + first_row * t.shape[1] * dtype_bytes(t.dtype), out);
}

std::optional<RowExtent> SplitExperts::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const Origin& from = origin(*t);
  std::optional<RowExtent> extent = source_->extent(from.name);
  if (from.is_part) {
    extent->offset += from.offset;
    extent->row_bytes = t->shape[1] * dtype_bytes(t->dtype);
  }
  return extent;
}

void SplitExperts::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                               std::span<float> out) const {
  const TensorInfo& t = table_.list()[table_.row_range(folder_, name, first_row, rows, out)];
  const Origin& from = origin(t);
  if (!from.is_part) return source_->decode_rows(from.name, first_row, rows, stored, out);
  OVERPROOF_CHECK(int64_t(stored.size()) == rows * t.shape[1] * dtype_bytes(t.dtype));
  elements_to_f32(t.dtype, stored.data(), out);
}

std::optional<CodeLayout> SplitExperts::code_layout(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  const auto* codes = dynamic_cast<const IntegerCodes*>(source_.get());
  return t && codes && !origin(*t).is_part ? codes->code_layout(origin(*t).name) : std::nullopt;
}

void SplitExperts::read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const {
  OVERPROOF_CHECK(code_layout(name).has_value());
  dynamic_cast<const IntegerCodes&>(*source_).read_codes(origin(*table_.find(name)).name, first_row, rows, out);
}

}  // namespace overproof
