#include "quantize/engine/chunks.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "quantize/calibration/calibration.h"

namespace overproof {
namespace {

/// f32 bytes of a grain: rows that stay in the second-level cache between decoding and quantizing.
constexpr int64_t kGrainBytes = int64_t{128} << 10;

int64_t rows_of(const TensorInfo& info) { return info.shape.empty() ? 1 : info.shape[0]; }

/// Fills chunks with tasks, and with bytes that are only digested.
class ChunkBuilder {
 public:
  ChunkBuilder(const std::vector<int64_t>& file_sizes, int64_t block_bytes) : sizes_(file_sizes), block_bytes_(block_bytes) {}

  /// Adds all bytes before (file, offset) that are not yet digested.
  void digest_up_to(int file, int64_t offset) {
    while (file_ < file || (file_ < int(sizes_.size()) && file_ == file && at_ < offset)) {
      const int64_t end = file_ < file ? sizes_[size_t(file_)] : offset;
      while (at_ < end) {
        open(file_, at_, true);
        const int64_t part = std::min(end - at_, std::max<int64_t>(1, block_bytes_ - (current_.end - current_.begin)));
        current_.end = at_ += part;
        if (current_.end - current_.begin >= block_bytes_) flush();
      }
      if (file_ == file) return;
      ++file_;
      at_ = 0;
    }
  }
  void digest_all() { digest_up_to(int(sizes_.size()), 0); }

  /// Adds a task to the current chunk if there is room, else to a new one. `digest`: its bytes, and all before them.
  void add(const RowTask& task, int file, bool digest) {
    digest = digest && file >= 0;
    if (digest) digest_up_to(file, task.stored_at);
    open(file, task.stored_at, digest);
    const bool room =
        current_.end - current_.begin + task.stored_bytes <= block_bytes_ && current_.out_bytes + task.out_bytes <= block_bytes_;
    if (!room && !is_empty()) {
      flush();
      open(file, task.stored_at, digest);
    }
    current_.out_bytes += task.out_bytes;
    current_.end += task.stored_bytes;
    current_.tasks.push_back(task);
    if (digest) at_ = current_.end;
  }
  /// Inserts `task`, of the same bytes, before the last added one.
  void add_before_last(const RowTask& task) { current_.tasks.insert(current_.tasks.end() - 1, task); }

  /// Bytes that still fit into the current chunk.
  int64_t room() const {
    const int64_t used = current_.tasks.empty() ? 0 : std::max(current_.end - current_.begin, current_.out_bytes);
    return used < block_bytes_ ? block_bytes_ - used : block_bytes_;
  }
  void flush() {
    if (!is_empty()) chunks_.push_back(std::move(current_));
    current_ = {};
  }
  std::vector<Chunk> take() {
    flush();
    return std::move(chunks_);
  }

 private:
  bool is_empty() const { return current_.end == current_.begin && current_.tasks.empty(); }

  /// Makes `current_` a chunk that continues at `begin` of `file`.
  void open(int file, int64_t begin, bool digest) {
    if (current_.file == file && current_.digest == digest && (file < 0 || current_.end == begin)) return;
    flush();
    current_.file = file;
    current_.begin = current_.end = begin;
    current_.digest = digest;
  }

  const std::vector<int64_t>& sizes_;
  const int64_t block_bytes_;
  std::vector<Chunk> chunks_;
  Chunk current_;
  int file_ = 0;  // position up to which bytes are digested
  int64_t at_ = 0;
};

/// Turns the items of a plan into tasks.
class PlanCutter {
 public:
  PlanCutter(const Plan& plan, const Checkpoint& model, const std::vector<int64_t>& file_sizes, int64_t block_bytes)
      : plan_(plan), model_(model), block_bytes_(block_bytes), builder_(file_sizes, block_bytes) {
    const TensorSource& source = *model.tensors;
    for (const PlanItem& item : plan.items) {
      const auto extent = item.source.elements() > 0 ? source.extent(item.source.name) : std::nullopt;
      extents_.push_back(extent);
      if (!extent) continue;
      OVERPROOF_CHECK(extent->file >= 0 && size_t(extent->file) < file_sizes.size() && extent->offset >= 0 &&
                      extent->row_unit > 0);
      const int64_t size = file_sizes[size_t(extent->file)];
      if (extent->offset + stored_bytes(extents_.size() - 1) > size)
        throw FormatError(source.files()[size_t(extent->file)], size,
                          fmt::format("the file ends before '{}' does", item.source.name));
    }
    in_order_ = is_in_order();
  }

  std::vector<Chunk> cut(size_t first_item) {
    if (!in_order_) builder_.digest_all();
    for (size_t i = first_item; i < plan_.items.size(); ++i) add_item(i);
    if (in_order_) builder_.digest_all();
    return builder_.take();
  }

 private:
  int64_t stored_bytes(size_t i) const { return rows_of(plan_.items[i].source) * extents_[i]->row_bytes; }
  int file_of(size_t i) const { return extents_[i] ? extents_[i]->file : -1; }

  /// Whether the files store the items in the plan's order.
  bool is_in_order() const {
    int file = 0;
    int64_t end = 0;
    for (size_t i = 0; i < extents_.size(); ++i) {
      if (!extents_[i]) continue;
      if (extents_[i]->file < file || (extents_[i]->file == file && extents_[i]->offset < end)) return false;
      file = extents_[i]->file;
      end = extents_[i]->offset + stored_bytes(i);
    }
    return true;
  }

  void add_item(size_t i) {
    const PlanItem& item = plan_.items[i];
    if (item.scheme) add_quantized(i);
    else if (item.source.elements() == 0) builder_.add({.kind = RowTask::Kind::copy, .item = i, .last = true}, -1, false);
    else if (extents_[i] && item.kept_as == item.source.dtype && is_plain(item.source, *extents_[i]) &&
             !is_scaled(plan_, item))
      add_copy(i);
    else add_converted(i);
  }

  void add_quantized(size_t i) {
    const PlanItem& item = plan_.items[i];
    const int64_t out_row_bytes = item.scheme->row_bytes(item.source.shape[1]);
    RowTask task{.kind = RowTask::Kind::quantize, .item = i};
    if (!item.scheme->needs_amax()) return add_rows(task, out_row_bytes, in_order_);
    RowTask amax{.kind = RowTask::Kind::find_amax, .item = i};
    if (!extents_[i] || stored_bytes(i) > kOnePassBytes) {
      builder_.flush();
      add_rows(amax, 0, false);
      builder_.flush();
      return add_rows(task, out_row_bytes, in_order_);
    }
    // Both passes over one chunk: the weight is read once.
    task.rows = amax.rows = item.source.shape[0];
    task.stored_at = amax.stored_at = extents_[i]->offset;
    task.stored_bytes = amax.stored_bytes = stored_bytes(i);
    task.out_bytes = task.rows * out_row_bytes;
    task.last = true;
    builder_.add(task, extents_[i]->file, in_order_);
    builder_.add_before_last(amax);
  }

  void add_converted(size_t i) {
    const PlanItem& item = plan_.items[i];
    if (item.kept_as != DType::f32 && item.kept_as != DType::f16 && item.kept_as != DType::bf16)
      throw FormatError(model_.path, -1,
                        fmt::format("{} has dtype {}, which weights cannot have", item.source.name, dtype_name(item.kept_as)));
    add_rows({.item = i}, item.source.row_elements() * dtype_bytes(item.kept_as), in_order_);
  }

  void add_copy(size_t i) {
    const int64_t all = stored_bytes(i);
    const int64_t element = std::max<int64_t>(1, dtype_bits(plan_.items[i].source.dtype) / 8);  // whole ones, so that each task can look at its values
    RowTask task{.kind = RowTask::Kind::copy, .item = i};
    for (int64_t done = 0; done < all;) {
      task.stored_at = extents_[i]->offset + done;
      if (in_order_) builder_.digest_up_to(extents_[i]->file, task.stored_at);
      task.stored_bytes = task.out_bytes = std::min(all - done, std::max(element, builder_.room() / element * element));
      done += task.stored_bytes;
      task.last = done == all;
      builder_.add(task, extents_[i]->file, in_order_);
    }
  }

  /// Adds all rows of task.item, as many tasks as it takes.
  void add_rows(RowTask task, int64_t out_row_bytes, bool digest) {
    const PlanItem& item = plan_.items[task.item];
    const std::optional<RowExtent>& extent = extents_[task.item];
    const int64_t grain = item_grain(item, extent ? extent->row_unit : 1);
    const int64_t rows = rows_of(item.source), row_bytes = extent ? extent->row_bytes : 0;
    const int64_t widest = std::max({int64_t{1}, row_bytes, out_row_bytes, extent ? 0 : item.source.row_elements() * 4});
    const int64_t block = std::max<int64_t>(1, block_bytes_ / widest / grain) * grain;
    for (int64_t first = 0; first < rows || first == 0; first += block) {
      task.first_row = first;
      task.rows = std::min(block, rows - first);
      task.stored_at = extent ? extent->offset + first * row_bytes : 0;
      task.stored_bytes = task.rows * row_bytes;
      task.out_bytes = task.rows * out_row_bytes;
      task.last = task.kind != RowTask::Kind::find_amax && first + task.rows >= rows;
      builder_.add(task, file_of(task.item), digest);
    }
  }

  const Plan& plan_;
  const Checkpoint& model_;
  const int64_t block_bytes_;
  std::vector<std::optional<RowExtent>> extents_;  // by item
  bool in_order_ = true;
  ChunkBuilder builder_;
};

}  // namespace

bool is_plain(const TensorInfo& info, const RowExtent& extent) {
  return info.dtype != DType::f32 && extent.row_unit == 1 && extent.row_bytes == info.row_bytes();
}

bool is_scaled(const Plan& plan, const PlanItem& item) {
  return plan.calibration && !plan.calibration->scaling(item.source.name).empty();
}

int64_t item_grain(const PlanItem& item, int64_t stored_row_unit) {
  const int64_t unit = std::lcm(stored_row_unit, item.scheme ? item.scheme->row_unit() : int64_t{1});
  return std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(4, item.source.row_elements() * 4) / unit) * unit;
}

std::vector<Chunk> cut_into_chunks(const Plan& plan, const Checkpoint& model, const std::vector<int64_t>& file_sizes,
                                   size_t first_item, int64_t block_bytes) {
  return PlanCutter(plan, model, file_sizes, block_bytes).cut(first_item);
}

}  // namespace overproof
