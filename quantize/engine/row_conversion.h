#pragma once
// Converts the rows of a plan's tensors: decodes them, scales them for SmoothQuant, and quantizes or re-encodes them.
//
// An item is opened before its first task, its tasks run in any threads and any order, and it is closed after the last one.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "quantize/engine/chunks.h"
#include "quantize/engine/plan.h"
#include "quantize/gpu/gpu_rows.h"

namespace overproof {

class RowConversion {
 public:
  /// `gpu` may be null. All arguments outlive this.
  RowConversion(const Plan& plan, const Checkpoint& model, GpuSession* gpu);
  ~RowConversion();

  /// Prepares an item for its tasks. Not thread-safe; call it again for each task of the item.
  void open(size_t item);
  /// Runs one task: `stored`, the bytes of its rows in the file (empty when the source is asked for them) -> `out` [out_bytes].
  /// Appends one error sum for each grain of rows that is quantized. A quantizing task waits until all find_amax tasks of its item
  /// have run. Returns false when stop() was called meanwhile. Throws FormatError naming the row of an infinity or NaN, or of
  /// a value that F16 or BF16 cannot hold.
  bool convert(const RowTask& task, std::span<const uint8_t> stored, std::span<uint8_t> out, std::vector<RowError>& errors);
  /// The bytes of the item's outputs after the first one; frees its state.
  std::vector<std::vector<uint8_t>> close(size_t item);
  /// Wakes all waiting tasks, which then return false.
  void stop();

  int64_t by_gpu() const { return by_gpu_; }  ///< weights that the GPU quantized

 private:
  struct State;
  struct Piece;
  bool prepare(const PlanItem& item, State& state);
  void convert_piece(const RowTask& task, const Piece& piece, std::vector<RowError>& errors);
  template <class Values>
  void quantize(const PlanItem& item, State& state, const Piece& piece, Values x, std::vector<RowError>& errors) const;
  void find_amax(State& state, int64_t rows, std::span<const float> x);
  void check_kept(const PlanItem& item, int64_t first_row, std::span<const float> x) const;
  void check_copied(const PlanItem& item, const RowTask& task, std::span<const uint8_t> stored) const;
  [[noreturn]] void refuse_row(const PlanItem& item, int64_t row) const;

  const Plan& plan_;
  const Checkpoint& model_;
  const TensorSource& source_;
  GpuSession* gpu_;
  std::vector<int64_t> grains_;                 // by item
  std::vector<std::unique_ptr<State>> states_;  // by item; null unless it is open and quantized
  std::atomic<int64_t> by_gpu_ = 0;
  std::mutex mutex_;  // of State::amax_rows and stopping_
  std::condition_variable changed_;
  bool stopping_ = false;
};

}  // namespace overproof
