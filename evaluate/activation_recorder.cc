#include "evaluate/activation_recorder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "model/functions.h"

namespace overproof {
namespace {

constexpr double kF16Largest = 65504.0;
constexpr DType kSpilled[] = {DType::i64, DType::f32, DType::f16};

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

ActivationSpill::ActivationSpill(const fs::path& scratch, const Json* mark) : scratch_(scratch, Unfinished::kept) {
  fs::create_directories(scratch);
  if (mark) resume(*mark);
  else fs::remove(scratch / kSpill);
  out_.emplace(scratch_.open(kSpill));
  if (mark) out_->skip(out_->kept_bytes_left());
}

void ActivationSpill::resume(const Json& mark) {
  const fs::path file = scratch_.path() / kSpill;
  FileRecord record{kSpill, 0, {}};
  int64_t end = 0;
  try {
    record.bytes = mark.at("bytes").get<int64_t>();
    record.digest = Digest::from_hex(mark.at("sha256").get<std::string>());
    groups_ = mark.at("groups").get<int64_t>();
    members_ = mark.at("members");
    for (const Json& part : mark.at("parts")) {
      const auto dtype = std::ranges::find(kSpilled, part.at(1).get<std::string>(), dtype_name);
      if (dtype == std::end(kSpilled))
        throw FormatError(file, -1, "the mark of an earlier run names a type that is not recorded");
      const auto shape = part.at(2).get<std::vector<int64_t>>();
      int64_t bytes = dtype_bytes(*dtype);
      for (const int64_t d : shape)
        if (d < 0 || __builtin_mul_overflow(bytes, d, &bytes))
          throw FormatError(file, -1, "the mark of an earlier run is damaged");
      if (bytes > record.bytes - end) throw FormatError(file, -1, "the mark of an earlier run speaks of more than is there");
      parts_.push_back({{part.at(0).get<std::string>(), *dtype, shape}, end});
      end += parts_.back().info.bytes();
    }
  } catch (const Json::exception& e) {
    throw FormatError(file, -1, fmt::format("the mark of an earlier run is damaged: {}", e.what()));
  }
  if (end != record.bytes || !scratch_.resume({record})) throw FormatError(file, -1, "is no longer what an earlier run left");
}

Json ActivationSpill::mark() {
  const FileRecord record = out_->sync();
  Json parts = Json::array();
  for (const Part& p : parts_) parts.push_back({p.info.name, dtype_name(p.info.dtype), p.info.shape});
  return {{"bytes", record.bytes}, {"sha256", record.digest.hex()}, {"groups", groups_}, {"members", members_}, {"parts", parts}};
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
  const MappedFile spilled(scratch_.path() / kSpill);
  for (const Part& p : parts_)
    if (p.info.elements() > 0) writer.append(spilled.bytes().data() + p.offset, size_t(p.info.bytes()));
  writer.close();
}

}  // namespace overproof
