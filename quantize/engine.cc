#include "quantize/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/float_bits.h"
#include "core/hash_lanes.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "quantize/calibration.h"
#include "quantize/chunks.h"
#include "quantize/gpu_rows.h"
#include "quantize/int8.h"
#include "quantize/journal.h"
#include "quantize/row_kernels.h"

namespace overproof {
namespace {

/// Memory for chunks in flight. With buffers of the writer, scratch of the workers and the program itself within 256 MiB.
constexpr int64_t kRingBytes = int64_t{96} << 20;
constexpr int64_t kMostSlots = 8;
/// f32 bytes of rows that a GPU is given at once.
constexpr int64_t kGpuPieceBytes = int64_t{8} << 20;

/// The journal was right about itself, but the input is another by now.
struct StaleJournal {};

/// A weight on its way: from the first of its chunks to the last.
struct ItemState {
  std::unique_ptr<RowQuantizer> quantizer;
  std::unique_ptr<GpuRows> gpu;  // in the quantizer's place
  std::vector<float> scales;
  std::shared_ptr<const LinearStatistics> statistics;
  bool from_bf16 = false;               // rows go to the kernels as they are stored
  std::atomic<uint32_t> amax_bits = 0;  // magnitudes order as their bits do
  int64_t amax_rows = 0;                // looked at so far; under the ring's mutex
  std::once_flag prepared;
};

struct Slot {
  AlignedBuffer stored, out;
  std::span<const uint8_t> bytes;             // of the chunk, in `stored`
  std::vector<std::vector<RowError>> errors;  // by task, by grain
  std::exception_ptr failure;
  bool converted = false;
};

class Engine {
 public:
  Engine(const Plan& plan, const Checkpoint& model, const EngineOptions& options, const std::optional<Journal>& journal,
         HashLanes& lanes)
      : plan_(plan),
        model_(model),
        source_(*model.tensors),
        options_(options),
        journal_(journal),
        states_(plan.items.size()),
        lanes_(lanes) {
    for (const fs::path& file : source_.files()) {
      readers_.push_back(std::make_unique<DirectReader>(file));
      sizes_.push_back(readers_.back()->size());
      total_ += sizes_.back();
    }
    hashes_.resize(readers_.size());
    hashed_.resize(readers_.size());
    for (const PlanItem& item : plan.items) {
      const auto extent = source_.extent(item.source.name);
      grains_.push_back(item_grain(item, extent ? extent->row_unit : 1));
    }
    result_.errors.resize(plan.items.size());
    if (journal_) {
      if (!covers_resumed_items()) throw StaleJournal();
      result_.resumed_items = journal_->items;
      std::ranges::copy(journal_->errors, result_.errors.begin());
    }
    chunks_ = cut_into_chunks(plan, model, sizes_, result_.resumed_items, options.block_bytes);
    int64_t widest = 1;
    for (const Chunk& c : chunks_) widest = std::max(widest, c.end - c.begin + c.out_bytes);
    slots_ = std::vector<Slot>(size_t(std::clamp<int64_t>(kRingBytes / widest, 2, kMostSlots)));
  }

  ~Engine() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  EngineResult run(TensorSink& sink, const OutputFolder& partial, const fs::path& journal_file) {
    Progress progress(options_.label, total_ > 0 ? total_ : int64_t(chunks_.size()), total_ > 0 ? "bytes" : "blocks");
    if (journal_) {
      sink.skip(journal_->bytes);
      bytes_out_ = checkpointed_ = journal_->bytes;
    }
    threads_.emplace_back([this] { read(); });
    threads_.emplace_back([this] { digest(); });
    for (int64_t i = 0; i < thread_count(); ++i) threads_.emplace_back([this] { convert(); });
    int64_t done = 0;
    for (size_t c = 0; c < chunks_.size(); ++c) {
      throw_if_interrupted();
      const Chunk& chunk = chunks_[c];
      Slot& slot = slots_[c % slots_.size()];
      wait([&] { return slot_holds(c) && slot.converted; });
      if (stale_) throw StaleJournal();
      if (slot.failure) std::rethrow_exception(slot.failure);
      const bool complete = write(chunk, slot, sink);
      if (complete && bytes_out_ - checkpointed_ >= options_.checkpoint_bytes) checkpoint(c, sink, partial, journal_file);
      {
        const std::lock_guard lock(mutex_);
        slot.converted = false;
        written_ = c + 1;
      }
      changed_.notify_all();
      if (chunk.digest || total_ == 0) progress.update(done += total_ > 0 ? chunk.end - chunk.begin : 1);
    }
    wait([&] { return digested_ == chunks_.size(); });
    if (stale_ || (journal_ && marks_met_ != journal_->inputs.size())) throw StaleJournal();
    result_.by_gpu = by_gpu_;
    result_.direct = !readers_.empty();
    for (size_t f = 0; f < readers_.size(); ++f) {
      readers_[f]->check_unchanged();
      OVERPROOF_CHECK(hashed_[f] == sizes_[f]);
      result_.inputs.push_back({readers_[f]->path().string(), sizes_[f], hashes_[f].finish()});
      result_.direct = result_.direct && readers_[f]->direct();
    }
    return std::move(result_);
  }

 private:
  /// Whether the journal's digests speak of all that its items were made from.
  bool covers_resumed_items() const {
    for (size_t i = 0; i < journal_->items; ++i) {
      const TensorInfo& info = plan_.items[i].source;
      const auto extent = source_.extent(info.name);
      if (info.elements() == 0) continue;
      if (!extent) return false;  // nobody can say which bytes it was made from
      const int64_t end = extent->offset + (info.shape.empty() ? 1 : info.shape[0]) * extent->row_bytes;
      if (std::ranges::none_of(journal_->inputs, [&](const InputMark& m) { return m.file == extent->file && m.bytes >= end; }))
        return false;
    }
    return true;
  }

  /// Waits until `ready`, called under the mutex. False when the run is over.
  template <class Ready>
  bool wait(Ready&& ready) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || ready(); });
    return !stopping_;
  }

  bool slot_holds(size_t chunk) const { return read_ > chunk; }

  void read() {
    for (size_t c = 0; c < chunks_.size(); ++c) {
      if (!wait([&] { return c < written_ + slots_.size() && c < digested_ + slots_.size(); })) return;
      const Chunk& chunk = chunks_[c];
      Slot& slot = slots_[c % slots_.size()];
      try {
        slot.bytes = {};
        if (chunk.file >= 0) {
          slot.bytes = readers_[size_t(chunk.file)]->read(chunk.begin, chunk.end, slot.stored);
          result_.bytes_read += chunk.end - chunk.begin;
        }
        slot.out.reserve(chunk.out_bytes);
        for (const RowTask& task : chunk.tasks)
          if (plan_.items[task.item].scheme && !states_[task.item]) states_[task.item] = new_state(plan_.items[task.item]);
      } catch (...) {
        slot.failure = std::current_exception();
      }
      const bool failed = slot.failure != nullptr;
      {
        const std::lock_guard lock(mutex_);
        slot.converted = failed || chunk.tasks.empty();
        if (failed) broken_ = c;
        read_ = c + 1;
      }
      changed_.notify_all();
      if (failed) return;
    }
  }

  std::unique_ptr<ItemState> new_state(const PlanItem& item) const {
    auto state = std::make_unique<ItemState>();
    const auto extent = source_.extent(item.source.name);
    state->from_bf16 = item.source.dtype == DType::bf16 && extent && is_plain(item.source, *extent) && !is_scaled(plan_, item);
    state->scales.resize(size_t(item.scheme->row_scales(item.source.shape[0], item.source.shape[1])));
    return state;
  }

  void digest() {
    for (size_t c = 0; c < chunks_.size(); ++c) {
      if (!wait([&] { return slot_holds(c); }) || c == broken_) return;
      const Chunk& chunk = chunks_[c];
      if (chunk.digest) {
        const std::lock_guard lock(hash_mutex_);
        update_hash(size_t(chunk.file), slots_[c % slots_.size()].bytes);
      }
      {
        const std::lock_guard lock(mutex_);
        digested_ = c + 1;
      }
      changed_.notify_all();
    }
  }

  /// Stops on the way where the journal of an earlier run has a mark.
  void update_hash(size_t file, std::span<const uint8_t> bytes) {
    const auto mark =
        journal_ ? std::ranges::find(journal_->inputs, int(file), &InputMark::file) : std::vector<InputMark>::const_iterator{};
    if (journal_ && mark != journal_->inputs.end() && hashed_[file] < mark->bytes &&
        mark->bytes <= hashed_[file] + int64_t(bytes.size())) {
      const size_t before = size_t(mark->bytes - hashed_[file]);
      lanes_.update(hashes_[file], bytes.data(), before);
      hashed_[file] = mark->bytes;
      bytes = bytes.subspan(before);
      ++marks_met_;
      if (hashes_[file].so_far() != mark->digest) stale_ = true;
    }
    lanes_.update(hashes_[file], bytes.data(), bytes.size());
    hashed_[file] += int64_t(bytes.size());
  }

  void convert() {
    for (;;) {
      size_t c = 0;
      if (!wait([&] { return claimed_ < read_ || claimed_ >= chunks_.size() || claimed_ == broken_; })) return;
      {
        const std::lock_guard lock(mutex_);
        if (claimed_ >= chunks_.size() || claimed_ == broken_) return;
        if (claimed_ >= read_) continue;  // another worker was quicker
        c = claimed_++;
      }
      const Chunk& chunk = chunks_[c];
      if (chunk.tasks.empty()) continue;
      Slot& slot = slots_[c % slots_.size()];
      try {
        slot.errors.assign(chunk.tasks.size(), {});
        int64_t out = 0;
        for (size_t t = 0; t < chunk.tasks.size(); ++t) {
          const RowTask& task = chunk.tasks[t];
          const auto stored = chunk.file < 0
                                  ? std::span<const uint8_t>{}
                                  : slot.bytes.subspan(size_t(task.stored_at - chunk.begin), size_t(task.stored_bytes));
          work(task, stored, {slot.out.data() + out, size_t(task.out_bytes)}, slot.errors[t]);
          out += task.out_bytes;
        }
      } catch (...) {
        slot.failure = std::current_exception();
      }
      {
        const std::lock_guard lock(mutex_);
        slot.converted = true;
      }
      changed_.notify_all();
    }
  }

  void work(const RowTask& task, std::span<const uint8_t> stored, std::span<uint8_t> out, std::vector<RowError>& errors) {
    if (task.kind == RowTask::Kind::copy) {
      std::ranges::copy(stored, out.begin());
      return;
    }
    const PlanItem& item = plan_.items[task.item];
    const int64_t columns = item.source.row_elements(), grain = grains_[task.item];
    const int64_t row_bytes = task.rows > 0 ? int64_t(stored.size()) / task.rows : 0,
                  out_row_bytes = task.rows > 0 ? int64_t(out.size()) / task.rows : 0;
    thread_local std::vector<float> scratch;
    if (task.kind == RowTask::Kind::quantise && !prepare(item, *states_[task.item])) return;
    const bool by_gpu = task.kind == RowTask::Kind::quantise && states_[task.item]->gpu;
    // A GPU is given as much at once as the scratch may grow to; errors are added up by grain all the same.
    const int64_t step = by_gpu ? std::max<int64_t>(1, kGpuPieceBytes / (4 * columns) / grain) * grain : grain;
    for (int64_t first = 0; first < task.rows; first += step) {
      const int64_t rows = std::min(step, task.rows - first), row = task.first_row + first;
      const std::span<uint8_t> bytes = out.subspan(size_t(first * out_row_bytes), size_t(rows * out_row_bytes));
      const std::span<const uint8_t> part =
          stored.empty() ? stored : stored.subspan(size_t(first * row_bytes), size_t(rows * row_bytes));
      if (task.kind == RowTask::Kind::quantise && states_[task.item]->from_bf16 &&
          reinterpret_cast<uintptr_t>(part.data()) % 2 == 0) {
        if (by_gpu) {
          quantise_by_gpu(item, *states_[task.item], row, rows, grain, ElementType::bf16, part.data(), bytes, errors);
          continue;
        }
        errors.push_back(quantise(item, *states_[task.item], row, rows, [&](std::span<float> scales) {
          return states_[task.item]->quantizer->quantize_bf16(
              row, rows, {reinterpret_cast<const uint16_t*>(part.data()), size_t(rows * columns)}, bytes, scales);
        }));
        continue;
      }
      scratch.resize(size_t(rows * columns));
      const std::span<float> x(scratch);
      if (stored.empty()) source_.read_f32(item.source.name, row, rows, x);
      else source_.decode_rows(item.source.name, row, rows, part, x);
      if (plan_.calibration) plan_.calibration->scaling(item.source.name).apply(row, rows, x);
      switch (task.kind) {
        case RowTask::Kind::quantise:
          if (by_gpu) {
            quantise_by_gpu(item, *states_[task.item], row, rows, grain, ElementType::f32, x.data(), bytes, errors);
            break;
          }
          errors.push_back(quantise(item, *states_[task.item], row, rows, [&](std::span<float> scales) {
            return states_[task.item]->quantizer->quantize(row, rows, x, bytes, scales);
          }));
          break;
        case RowTask::Kind::find_amax:
          look_at(*states_[task.item], rows, x);
          break;
        default:
          f32_to_elements(item.kept_as, x, bytes.data());
          check_kept(item, row, x, bytes);
      }
    }
  }

  static std::span<float> scales_of(const PlanItem& item, ItemState& state, int64_t row, int64_t rows) {
    const int64_t columns = item.source.shape[1];
    const int64_t first = item.scheme->row_scales(row, columns), last = item.scheme->row_scales(row + rows, columns);
    return std::span(state.scales).subspan(size_t(first), size_t(last - first));
  }

  void quantise_by_gpu(const PlanItem& item, ItemState& state, int64_t row, int64_t rows, int64_t grain, ElementType type,
                       const void* x, std::span<uint8_t> bytes, std::vector<RowError>& errors) const {
    const int64_t bad_row = state.gpu->quantize(row, rows, grain, type, x, bytes, scales_of(item, state, row, rows), errors);
    if (bad_row >= 0) refuse_row(item, bad_row);
  }

  template <class Make>
  RowError quantise(const PlanItem& item, ItemState& state, int64_t row, int64_t rows, Make&& make) const {
    const RowsResult made = make(scales_of(item, state, row, rows));
    if (made.bad_row >= 0) refuse_row(item, made.bad_row);
    return made.error;
  }

  [[noreturn]] void refuse_row(const PlanItem& item, int64_t row) const {
    throw FormatError(model_.path, -1, fmt::format("{} row {} holds an infinity or NaN", item.source.name, row));
  }

  /// F16 holds no magnitude above 65504: what would become an infinity is no weight any more.
  void check_kept(const PlanItem& item, int64_t row, std::span<const float> x, std::span<const uint8_t> bytes) const {
    if (item.must_be_finite && is_not_finite(row_kernels().f32.amax_bits(x.data(), int64_t(x.size())))) {
      const auto bad = std::ranges::find_if(x, [](float v) { return is_not_finite(magnitude_bits(v)); });
      refuse_row(item, row + (bad - x.begin()) / item.source.row_elements());
    }
    if (item.kept_as != DType::f16 || item.source.dtype == DType::f16) return;
    for (size_t i = 0; i < x.size(); ++i)
      if ((bytes[2 * i + 1] & 0x7f) == 0x7c && bytes[2 * i] == 0)
        throw UsageError(fmt::format("{} row {} holds {}, which is too large for F16 (65504); write bf16 or f32",
                                     item.source.name, row + int64_t(i) / item.source.row_elements(), x[i]));
  }

  void look_at(ItemState& state, int64_t rows, std::span<const float> x) {
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

  /// False when the run is over.
  bool prepare(const PlanItem& item, ItemState& state) {
    // Chunks are claimed in order: whoever still looks for the largest magnitude has begun already.
    if (item.scheme->needs_amax() && !wait([&] { return state.amax_rows == item.source.shape[0]; })) return false;
    std::call_once(state.prepared, [&] {
      WeightFacts facts;
      facts.amax = f32_from_bits(state.amax_bits);
      if (plan_.calibration) state.statistics = plan_.calibration->for_weight(item.source.name);
      facts.statistics = state.statistics.get();
      state.quantizer = item.scheme->prepare(item.source, facts);
      const RowQuantizer* plain = state.quantizer.get();
      if (plan_.calibration) state.quantizer = plan_.calibration->wrap(item.source, *item.scheme, std::move(state.quantizer));
      if (options_.gpu && state.quantizer.get() == plain)
        state.gpu = GpuRows::make(*options_.gpu, *item.scheme, item.source, *state.quantizer);
      if (state.gpu) ++by_gpu_;
    });
    return true;
  }

  /// Returns whether the chunk ends an item, so that the output may be gone on from here.
  bool write(const Chunk& chunk, const Slot& slot, TensorSink& sink) {
    int64_t at = 0;
    for (size_t t = 0; t < chunk.tasks.size(); ++t) {
      const RowTask& task = chunk.tasks[t];
      append(sink, {slot.out.data() + at, size_t(task.out_bytes)});
      at += task.out_bytes;
      for (const RowError& e : slot.errors[t]) result_.errors[task.item] += e;
      if (!task.last) continue;
      items_ = task.item + 1;
      const PlanItem& item = plan_.items[task.item];
      if (!item.scheme) continue;
      for (size_t which = 1; which < item.outputs.size(); ++which) {
        const std::vector<uint8_t> side = states_[task.item]->quantizer->side_output(int(which), states_[task.item]->scales);
        OVERPROOF_CHECK(int64_t(side.size()) == item.outputs[which].bytes());
        append(sink, side);
      }
      states_[task.item].reset();
    }
    return !chunk.tasks.empty() && chunk.tasks.back().last;
  }

  void append(TensorSink& sink, std::span<const uint8_t> bytes) {
    sink.append(bytes);
    bytes_out_ += int64_t(bytes.size());
  }

  void checkpoint(size_t chunk, TensorSink& sink, const OutputFolder& partial, const fs::path& file) {
    Journal journal;
    journal.plan = plan_digest(plan_);
    journal.items = items_;
    journal.bytes = checkpointed_ = bytes_out_;
    journal.errors.assign(result_.errors.begin(), result_.errors.begin() + int64_t(items_));
    journal.outputs = sink.sync();
    fsync_folder(partial.path());
    wait([&] { return digested_ > chunk; });  // the marks must cover what the items were made from
    {
      const std::lock_guard lock(hash_mutex_);
      for (size_t f = 0; f < readers_.size(); ++f)
        if (hashed_[f] > 0) journal.inputs.push_back({int(f), hashed_[f], hashes_[f].so_far()});
    }
    write_journal(file, journal);
  }

  const Plan& plan_;
  const Checkpoint& model_;
  const TensorSource& source_;
  const EngineOptions& options_;
  const std::optional<Journal>& journal_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> sizes_, grains_;
  std::vector<std::unique_ptr<DirectReader>> readers_;
  std::vector<std::unique_ptr<ItemState>> states_;  // made by the reader, dropped by the writer
  int64_t total_ = 0, bytes_out_ = 0, checkpointed_ = 0;
  size_t items_ = 0;
  EngineResult result_;
  std::atomic<int64_t> by_gpu_ = 0;

  HashLanes& lanes_;
  std::mutex hash_mutex_;
  std::vector<Sha256> hashes_;
  std::vector<int64_t> hashed_;
  std::atomic<bool> stale_ = false;
  std::atomic<size_t> marks_met_ = 0;

  // Under mutex_: how far each has come, in chunks.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Slot> slots_;
  size_t read_ = 0, claimed_ = 0, digested_ = 0, written_ = 0;
  size_t broken_ = SIZE_MAX;  // could not be read; nothing comes after it
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

EngineResult run_engine(const Plan& plan, const Checkpoint& model, const SinkMaker& make_sink, Outputs& outputs,
                        const EngineOptions& options) {
  const fs::path journal_file = outputs.scratch() / "quantize.json", folder = outputs.scratch() / "partial";
  for (bool may_resume = true;; may_resume = false) {
    HashLanes lanes;  // the digests of input and output, which come at the same time
    OutputFolder partial(folder, Unfinished::kept, &lanes);
    std::optional<Journal> journal;
    if (may_resume) journal = read_journal(journal_file, plan);
    if (journal && !partial.resume(journal->outputs)) journal.reset();
    if (!journal) {
      std::error_code error;
      fs::remove(journal_file, error);  // before what it speaks of
      fs::remove_all(folder, error);
      fs::create_directories(folder, error);
      if (error) throw IoError(folder, "cannot make this folder", error.value());
    }
    try {
      Engine engine(plan, model, options, journal, lanes);
      const std::unique_ptr<TensorSink> sink = make_sink(partial, plan.outputs);
      EngineResult result = engine.run(*sink, partial, journal_file);
      sink->close();
      outputs.folder().adopt(partial);
      return result;
    } catch (const StaleJournal&) {
    }
  }
}

void note_digests(const Inputs& inputs, const std::string& slot, const Checkpoint& model, const EngineResult& made) {
  const bool one_file = !fs::is_directory(model.path);
  for (const FileRecord& record : made.inputs) {
    const fs::path file = record.name;
    inputs.note_digest(slot, {one_file ? file.filename().string() : file.lexically_relative(model.path).generic_string(),
                              record.bytes, record.digest});
  }
}

}  // namespace overproof
