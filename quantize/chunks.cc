#include "quantize/chunks.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "quantize/calibration.h"

namespace overproof {
namespace {

/// f32 bytes of a grain: rows that stay in the second-level cache between reading and quantising.
constexpr int64_t kGrainBytes = int64_t{128} << 10;

int64_t rows_of(const TensorInfo& info) { return info.shape.empty() ? 1 : info.shape[0]; }

class Cutter {
 public:
  Cutter(const Plan& plan, const Checkpoint& model, const std::vector<int64_t>& file_sizes, int64_t block_bytes)
      : plan_(plan), model_(model), source_(*model.tensors), sizes_(file_sizes), block_bytes_(block_bytes) {
    for (const PlanItem& item : plan.items)
      extents_.push_back(item.source.elements() > 0 ? source_.extent(item.source.name) : std::nullopt);
    for (size_t i = 0; i < extents_.size(); ++i)
      if (extents_[i]) check_extent(i);
  }

  std::vector<Chunk> cut(size_t first_item) {
    in_order_ = is_in_order();
    if (!in_order_) digest_up_to(int(sizes_.size()), 0);
    for (size_t i = 0; i < plan_.items.size(); ++i)
      if (i >= first_item) add_item(i);
    if (in_order_) digest_up_to(int(sizes_.size()), 0);
    flush();
    return std::move(chunks_);
  }

 private:
  int64_t stored_bytes(size_t i) const { return rows_of(plan_.items[i].source) * extents_[i]->row_bytes; }

  void check_extent(size_t i) const {
    const RowExtent& e = *extents_[i];
    OVERPROOF_CHECK(e.file >= 0 && size_t(e.file) < sizes_.size() && e.offset >= 0 && e.row_unit > 0);
    if (e.offset + stored_bytes(i) > sizes_[size_t(e.file)])
      throw FormatError(source_.files()[size_t(e.file)], sizes_[size_t(e.file)],
                        fmt::format("the file ends before '{}' does", plan_.items[i].source.name));
  }

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

  void flush() {
    if (current_.end > current_.begin || !current_.tasks.empty()) chunks_.push_back(std::move(current_));
    current_ = {};
  }

  /// Takes all bytes before (file, offset) that no chunk has yet into chunks of the digest.
  void digest_up_to(int file, int64_t offset) {
    while (file_ < file || (file_ < int(sizes_.size()) && file_ == file && at_ < offset)) {
      const int64_t end = file_ < file ? sizes_[size_t(file_)] : offset;
      while (at_ < end) {
        open_chunk(file_, at_, true);
        const int64_t part = std::min(end - at_, std::max<int64_t>(1, block_bytes_ - (current_.end - current_.begin)));
        current_.end = at_ += part;
        if (current_.end - current_.begin >= block_bytes_) flush();
      }
      if (file_ == file) return;
      ++file_;
      at_ = 0;
    }
  }

  /// Makes `current_` one that goes on at `begin` of `file`.
  void open_chunk(int file, int64_t begin, bool digest) {
    if (current_.file == file && current_.digest == digest && (file < 0 || current_.end == begin)) return;
    flush();
    current_.file = file;
    current_.begin = current_.end = begin;
    current_.digest = digest;
  }

  /// Adds a task to the current chunk if there is room, else to a new one.
  void add_task(RowTask task, int file, bool digest) {
    if (file >= 0 && digest) digest_up_to(file, task.stored_at);
    open_chunk(file, task.stored_at, digest);
    const bool room =
        current_.end - current_.begin + task.stored_bytes <= block_bytes_ && current_.out_bytes + task.out_bytes <= block_bytes_;
    if (!room && (current_.end > current_.begin || !current_.tasks.empty())) {
      flush();
      open_chunk(file, task.stored_at, digest);
    }
    current_.out_bytes += task.out_bytes;
    current_.end += task.stored_bytes;
    current_.tasks.push_back(task);
    if (file >= 0 && digest) at_ = current_.end;
  }

  void add_rows(size_t i, RowTask task, int64_t grain, int64_t out_row_bytes, bool digest) {
    const TensorInfo& info = plan_.items[i].source;
    const int64_t rows = rows_of(info), row_bytes = extents_[i] ? extents_[i]->row_bytes : 0;
    const int64_t widest = std::max({int64_t{1}, row_bytes, out_row_bytes, extents_[i] ? 0 : info.row_elements() * 4});
    const int64_t block = std::max<int64_t>(1, block_bytes_ / widest / grain) * grain;
    for (int64_t first = 0; first < rows || first == 0; first += block) {
      task.first_row = first;
      task.rows = std::min(block, rows - first);
      task.stored_at = extents_[i] ? extents_[i]->offset + first * row_bytes : 0;
      task.stored_bytes = task.rows * row_bytes;
      task.out_bytes = task.rows * out_row_bytes;
      task.last = task.kind != RowTask::Kind::find_amax && first + task.rows >= rows;
      add_task(task, extents_[i] ? extents_[i]->file : -1, digest);
    }
  }

  void add_copy(size_t i, RowTask task) {
    const int64_t all = stored_bytes(i);
    task.kind = RowTask::Kind::copy;
    for (int64_t done = 0; done < all;) {
      if (in_order_) digest_up_to(extents_[i]->file, extents_[i]->offset + done);
      const int64_t used = current_.tasks.empty() ? 0 : std::max(current_.end - current_.begin, current_.out_bytes);
      const int64_t room = used < block_bytes_ ? block_bytes_ - used : block_bytes_;
      task.stored_at = extents_[i]->offset + done;
      task.stored_bytes = task.out_bytes = std::min(all - done, room);
      done += task.stored_bytes;
      task.last = done == all;
      add_task(task, extents_[i]->file, in_order_);
    }
  }

  void add_item(size_t i) {
    const PlanItem& item = plan_.items[i];
    RowTask task;
    task.item = i;
    const bool digest = in_order_ && extents_[i].has_value();
    const int64_t grain = item_grain(item, extents_[i] ? extents_[i]->row_unit : 1);
    if (!item.scheme) {
      if (item.source.elements() == 0) {
        task.kind = RowTask::Kind::copy;
        task.last = true;
        return add_task(task, -1, false);
      }
      if (extents_[i] && !item.must_be_finite && item.kept_as == item.source.dtype && is_plain(item.source, *extents_[i]) &&
          !is_scaled(plan_, item))
        return add_copy(i, task);
      if (item.kept_as != DType::f32 && item.kept_as != DType::f16 && item.kept_as != DType::bf16)
        throw FormatError(model_.path, -1,
                          fmt::format("{} is {}, which is no type of a weight", item.source.name, dtype_name(item.kept_as)));
      return add_rows(i, task, grain, item.source.row_elements() * dtype_bytes(item.kept_as), digest);
    }
    const int64_t out_row_bytes = item.scheme->row_bytes(item.source.shape[1]);
    task.kind = RowTask::Kind::quantise;
    if (!item.scheme->needs_amax()) return add_rows(i, task, grain, out_row_bytes, digest);
    RowTask look = task;
    look.kind = RowTask::Kind::find_amax;
    if (!extents_[i] || stored_bytes(i) > kOneLook) {
      flush();
      add_rows(i, look, grain, 0, false);
      flush();
      return add_rows(i, task, grain, out_row_bytes, digest);
    }
    // Both looks at one chunk: the weight is read once.
    task.rows = look.rows = item.source.shape[0];
    task.stored_at = look.stored_at = extents_[i]->offset;
    task.stored_bytes = look.stored_bytes = stored_bytes(i);
    task.out_bytes = task.rows * out_row_bytes;
    task.last = true;
    add_task(task, extents_[i]->file, digest);
    current_.tasks.insert(current_.tasks.end() - 1, look);
  }

  const Plan& plan_;
  const Checkpoint& model_;
  const TensorSource& source_;
  const std::vector<int64_t>& sizes_;
  int64_t block_bytes_;
  std::vector<std::optional<RowExtent>> extents_;
  bool in_order_ = true;
  std::vector<Chunk> chunks_;
  Chunk current_;
  int file_ = 0;  // the digest's place
  int64_t at_ = 0;
};

}  // namespace

bool is_plain(const TensorInfo& info, const RowExtent& extent) {
  return info.dtype != DType::f32 && extent.row_unit == 1 && extent.row_bytes == info.row_elements() * dtype_bytes(info.dtype);
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
  return Cutter(plan, model, file_sizes, block_bytes).cut(first_item);
}

}  // namespace overproof
