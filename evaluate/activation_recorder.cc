#include "evaluate/activation_recorder.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "model/functions.h"

namespace overproof {
namespace {

constexpr double kF16Largest = 65504.0;

}  // namespace

InputRecord::InputRecord(int64_t columns, int64_t rows, const RecorderOptions& options)
    : rows_(rows),
      amax_(at::zeros({columns}, at::kFloat)),
      range_(at::zeros({2}, at::kFloat)),
      samples_(at::empty({std::min(options.samples, rows), columns}, at::kHalf)) {
  if (options.hessians) hessian_ = at::zeros({columns, columns}, at::kFloat);
}

void InputRecord::add(const at::Tensor& x) {
  const int64_t n = x.size(0), count = samples_.size(0);
  if (n == 0) return;
  OVERPROOF_CHECK(seen_ + n <= rows_);
  const at::Tensor least = x.amin(0), largest = x.amax(0);
  amax_ = at::maximum(amax_, at::maximum(largest, -least));
  const at::Tensor ends = at::stack({least.min(), largest.max()});
  range_ = seen_ == 0 ? ends : at::stack({at::minimum(range_[0], ends[0]), at::maximum(range_[1], ends[1])});
  // Sample i is the middle of part i when all rows are cut into as many equal parts as there are samples.
  for (; kept_ < count; ++kept_) {
    const int64_t row = (2 * kept_ + 1) * rows_ / (2 * count);
    if (row >= seen_ + n) break;
    samples_[kept_].copy_(x[row - seen_].clamp(-kF16Largest, kF16Largest));  // f16 has no room for the wildest activations
  }
  if (hessian_.defined()) nn::matmul_into(hessian_, x.t(), x, seen_ > 0);
  seen_ += n;
}

ActivationSpill::ActivationSpill(const fs::path& scratch) : file_(scratch / "activations.spill") {
  fs::create_directories(scratch);
  fs::remove(file_);  // of a run that was killed
  out_.emplace(file_, "activations.spill");
}

ActivationSpill::~ActivationSpill() {
  std::error_code ignored;
  fs::remove(file_, ignored);
}

void ActivationSpill::append(const std::string& name, DType dtype, const at::Tensor& values) {
  const at::Tensor contiguous = values.contiguous();
  parts_.push_back({{name, dtype, contiguous.sizes().vec()}, out_->bytes_written()});
  out_->write(contiguous.const_data_ptr(), size_t(contiguous.nbytes()));
}

void ActivationSpill::add(const std::vector<std::string>& weights, const InputRecord& record, int64_t routed, int64_t forced) {
  OVERPROOF_CHECK(record.seen_ == record.rows_ && record.seen_ == routed + forced);
  const std::string& group = weights.front();
  for (const std::string& weight : weights) members_[weight + ".weight"] = group;
  ++groups_;
  append(group + ".tokens", DType::i64, at::tensor({routed, forced}, at::kLong));
  append(group + ".amax", DType::f32, record.amax_);
  append(group + ".range", DType::f32, record.range_);
  if (record.hessian_.defined())
    append(group + ".hessian", DType::f32, record.hessian_ / double(std::max<int64_t>(1, record.seen_)));
  append(group + ".samples", DType::f16, record.samples_);
}

void ActivationSpill::write(OutputFolder& folder, std::string_view name, Metadata metadata) {
  out_->close();
  out_.reset();
  std::ranges::stable_sort(parts_, {}, [](const Part& p) { return -dtype_bytes(p.info.dtype); });
  std::vector<TensorInfo> infos;
  for (const Part& p : parts_) infos.push_back(p.info);
  metadata["groups"] = members_.dump();
  metadata.emplace("format_version", "1");
  SafetensorsWriter writer(folder, std::string(name), infos, metadata);
  const MappedFile spilled(file_);
  for (const Part& p : parts_)
    if (p.info.elements() > 0) writer.append(spilled.bytes().data() + p.offset, size_t(p.info.bytes()));
  writer.close();
}

}  // namespace overproof
