#include "quantize/engine/row_conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "core/float_bits.h"
#include "formats/finite_values.h"
#include "quantize/calibration/calibration.h"
#include "quantize/kernels/int8.h"
#include "quantize/kernels/row_kernels.h"

namespace overproof {
namespace {

/// f32 bytes of rows that a GPU gets at a time.
constexpr int64_t kGpuPieceBytes = int64_t{8} << 20;

}  // namespace

/// A quantized item, from the first of its tasks to the last.
struct RowConversion::State {
  std::unique_ptr<RowQuantizer> quantizer;
  std::unique_ptr<GpuRows> gpu;  // used instead of the quantizer
  std::vector<float> scales;
  std::shared_ptr<const LinearStatistics> statistics;
  bool from_bf16 = false;               // rows go to the kernels as they are stored
  std::atomic<uint32_t> amax_bits = 0;  // magnitudes order as their bits do
  int64_t amax_rows = 0;                // rows that find_amax has seen
  std::once_flag prepared;
};

/// Rows of a task that are converted at once.
struct RowConversion::Piece {
  int64_t row, rows;  // of the tensor
  int64_t grain;
  std::span<const uint8_t> stored;
  std::span<uint8_t> out;
};

RowConversion::RowConversion(const Plan& plan, const Checkpoint& model, GpuSession* gpu)
    : plan_(plan), model_(model), source_(*model.tensors), gpu_(gpu), states_(plan.items.size()) {
  for (const PlanItem& item : plan.items) {
    const auto extent = source_.extent(item.source.name);
    grains_.push_back(item_grain(item, extent ? extent->row_unit : 1));
  }
}

RowConversion::~RowConversion() = default;

void RowConversion::open(size_t index) {
  const PlanItem& item = plan_.items[index];
  if (!item.scheme || states_[index]) return;
  auto state = std::make_unique<State>();
  const auto extent = source_.extent(item.source.name);
  state->from_bf16 = item.source.dtype == DType::bf16 && extent && is_plain(item.source, *extent) && !is_scaled(plan_, item);
  state->scales.resize(size_t(item.scheme->row_scales(item.source.shape[0], item.source.shape[1])));
  states_[index] = std::move(state);
}

std::vector<std::vector<uint8_t>> RowConversion::close(size_t index) {
  const PlanItem& item = plan_.items[index];
  std::vector<std::vector<uint8_t>> side;
  if (!item.scheme) return side;
  for (size_t which = 1; which < item.outputs.size(); ++which) {
    side.push_back(states_[index]->quantizer->side_output(int(which), states_[index]->scales));
    OVERPROOF_CHECK(int64_t(side.back().size()) == item.outputs[which].bytes());
  }
  states_[index].reset();
  return side;
}

void RowConversion::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

/// Values: std::span<float>, which may be changed, or std::span<const uint16_t> with bf16 bits.
template <class Values>
void RowConversion::quantize(const PlanItem& item, State& state, const Piece& piece, Values x,
                             std::vector<RowError>& errors) const {
  constexpr bool bf16 = std::is_same_v<Values, std::span<const uint16_t>>;
  const int64_t columns = item.source.shape[1];
  const int64_t first = item.scheme->row_scales(piece.row, columns),
                last = item.scheme->row_scales(piece.row + piece.rows, columns);
  const std::span<float> scales = std::span(state.scales).subspan(size_t(first), size_t(last - first));
  int64_t bad_row = -1;
  if (state.gpu) {
    bad_row = state.gpu->quantize(piece.row, piece.rows, piece.grain, bf16 ? ElementType::bf16 : ElementType::f32, x.data(),
                                  piece.out, scales, errors);
  } else {
    RowsResult made;
    if constexpr (bf16) made = state.quantizer->quantize_bf16(piece.row, piece.rows, x, piece.out, scales);
    else made = state.quantizer->quantize(piece.row, piece.rows, x, piece.out, scales);
    bad_row = made.bad_row;
    errors.push_back(made.error);
  }
  if (bad_row < 0) return;
  // Blocks with scales in F16 hold less than f32 does.
  for (const auto v : x.subspan(size_t((bad_row - piece.row) * columns), size_t(columns))) {
    float value = 0;
    if constexpr (bf16) value = bf16_to_f32(v);
    else value = v;
    if (is_not_finite(magnitude_bits(value))) refuse_row(item, bad_row);
  }
  throw FormatError(model_.path, -1,
                    fmt::format("{} row {} holds values that are too large for the scales of scheme {}; choose another scheme, or keep the "
                                "weight with --exclude",
                                item.source.name, bad_row, item.scheme->name()));
}

void RowConversion::find_amax(State& state, int64_t rows, std::span<const float> x) {
  const uint32_t found = row_kernels().f32.amax_bits(x.data(), int64_t(x.size()));
  uint32_t known = state.amax_bits;
  while (known < found && !state.amax_bits.compare_exchange_weak(known, found)) {
  }
  {
    const std::lock_guard lock(mutex_);
    state.amax_rows += rows;
  }
  changed_.notify_all();
}

/// Makes the quantizer, once per item, when the largest magnitude is known. False when stop() was called.
bool RowConversion::prepare(const PlanItem& item, State& state) {
  if (item.scheme->needs_amax()) {
    // No deadlock: tasks start in the order of the plan, so all find_amax tasks of the item are running or done.
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || state.amax_rows == item.source.shape[0]; });
    if (stopping_) return false;
  }
  std::call_once(state.prepared, [&] {
    WeightFacts facts;
    facts.amax = f32_from_bits(state.amax_bits);
    if (plan_.calibration) state.statistics = plan_.calibration->for_weight(item.source.name);
    facts.statistics = state.statistics.get();
    state.quantizer = item.scheme->prepare(item.source, facts);
    const RowQuantizer* plain = state.quantizer.get();
    if (plan_.calibration) state.quantizer = plan_.calibration->wrap(item.source, *item.scheme, std::move(state.quantizer));
    if (gpu_ && state.quantizer.get() == plain) state.gpu = GpuRows::make(*gpu_, *item.scheme, item.source, *state.quantizer);
    if (state.gpu) ++by_gpu_;
  });
  return true;
}

void RowConversion::refuse_row(const PlanItem& item, int64_t row) const {
  throw FormatError(model_.path, -1, fmt::format("{} row {} holds an infinity or NaN", item.source.name, row));
}

/// 16 bits end where f32 does not: a larger magnitude would become an infinity.
void RowConversion::check_kept(const PlanItem& item, int64_t first_row, std::span<const float> x) const {
  const auto row_of = [&](size_t i) { return first_row + int64_t(i) / item.source.row_elements(); };
  const uint32_t amax = row_kernels().f32.amax_bits(x.data(), int64_t(x.size()));
  if (item.must_be_finite && is_not_finite(amax)) {
    const auto bad = std::ranges::find_if(x, [](float v) { return is_not_finite(magnitude_bits(v)); });
    refuse_row(item, row_of(size_t(bad - x.begin())));
  }
  const auto [most, infinite_from] = dtype_range(item.kept_as);
  if (amax < magnitude_bits(infinite_from)) return;
  for (size_t i = 0; i < x.size(); ++i)
    if (std::abs(x[i]) >= infinite_from && std::isfinite(x[i]))
      throw FormatError(model_.path, -1,
                        fmt::format("{} row {} holds {:.9g}, which is too large for {} ({:.9g}); use {}", item.source.name, row_of(i), x[i],
                                    dtype_name(item.kept_as), most, item.kept_as == DType::f16 ? "bf16 or f32" : "f32"));
}

/// Elements have no infinity or NaN where no exponent is full, which the two highest bytes contain. An f64 counts as infinite from
/// 2^128 on: loaders make f32 or less of it.
void RowConversion::check_copied(const PlanItem& item, const RowTask& task, std::span<const uint8_t> stored) const {
  const DType dtype = item.source.dtype;
  if (!item.must_be_finite || stored.empty() || (dtype != DType::f16 && dtype != DType::bf16 && dtype != DType::f64)) return;
  const uint16_t least = dtype == DType::f16 ? 0x7c00 : dtype == DType::f64 ? 0x47f0 : 0x7f80;
  const auto bytes = size_t(dtype_bytes(dtype)), count = stored.size() / bytes;
  const auto is_bad = [&](size_t i) {
    uint16_t bits;
    std::memcpy(&bits, stored.data() + (i + 1) * bytes - sizeof bits, sizeof bits);
    return (bits & 0x7fff) >= least;
  };
  size_t bad = 0;
  for (size_t i = 0; i < count; ++i) bad += is_bad(i);
  if (bad == 0) return;
  size_t first = 0;
  while (!is_bad(first)) ++first;
  const int64_t before = (task.stored_at - source_.extent(item.source.name)->offset) / int64_t(bytes);
  refuse_row(item, (before + int64_t(first)) / item.source.row_elements());
}

bool RowConversion::convert(const RowTask& task, std::span<const uint8_t> stored, std::span<uint8_t> out,
                            std::vector<RowError>& errors) {
  const PlanItem& item = plan_.items[task.item];
  if (task.kind == RowTask::Kind::copy) {
    check_copied(item, task, stored);
    std::ranges::copy(stored, out.begin());
    return true;
  }
  const int64_t grain = grains_[task.item];
  const bool quantizes = task.kind == RowTask::Kind::quantize;
  if (quantizes && !prepare(item, *states_[task.item])) return false;
  // A GPU gets more rows at a time. Error sums are by grain either way.
  const int64_t step = quantizes && states_[task.item]->gpu
                           ? std::max<int64_t>(1, kGpuPieceBytes / (4 * item.source.row_elements()) / grain) * grain
                           : grain;
  const int64_t row_bytes = task.rows > 0 ? int64_t(stored.size()) / task.rows : 0,
                out_row_bytes = task.rows > 0 ? int64_t(out.size()) / task.rows : 0;
  for (int64_t first = 0; first < task.rows; first += step) {
    const int64_t rows = std::min(step, task.rows - first);
    convert_piece(task,
                  {task.first_row + first, rows, grain, stored.subspan(size_t(first * row_bytes), size_t(rows * row_bytes)),
                   out.subspan(size_t(first * out_row_bytes), size_t(rows * out_row_bytes))},
                  errors);
  }
  return true;
}

void RowConversion::convert_piece(const RowTask& task, const Piece& piece, std::vector<RowError>& errors) {
  const PlanItem& item = plan_.items[task.item];
  if (task.kind == RowTask::Kind::quantize && states_[task.item]->from_bf16 &&
      reinterpret_cast<uintptr_t>(piece.stored.data()) % alignof(uint16_t) == 0)
    return quantize(item, *states_[task.item], piece,
                    std::span(reinterpret_cast<const uint16_t*>(piece.stored.data()), piece.stored.size() / sizeof(uint16_t)),
                    errors);

  thread_local std::vector<float> scratch;
  scratch.resize(size_t(piece.rows * item.source.row_elements()));
  const std::span<float> x(scratch);
  if (piece.stored.empty()) source_.read_f32(item.source.name, piece.row, piece.rows, x);
  else source_.decode_rows(item.source.name, piece.row, piece.rows, piece.stored, x);
  if (plan_.calibration) plan_.calibration->scaling(item.source.name).apply(piece.row, piece.rows, x);
  switch (task.kind) {
    case RowTask::Kind::quantize:
      return quantize(item, *states_[task.item], piece, x, errors);
    case RowTask::Kind::find_amax:
      return find_amax(*states_[task.item], piece.rows, x);
    default:
      f32_to_elements(item.kept_as, x, piece.out.data());
      check_kept(item, piece.row, x);
  }
}

}  // namespace overproof
