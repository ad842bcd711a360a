#include "quantize/engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/real_path.h"
#include "quantize/engine/chunks.h"
#include "quantize/engine/input_digests.h"
#include "quantize/engine/journal.h"
#include "quantize/engine/row_conversion.h"
#include "records/resume.h"

namespace overproof {
namespace {

/// Memory for chunks in flight. With the writer's buffers, the workers' scratch and the program itself: within 256 MiB.
constexpr int64_t kRingBytes = int64_t{96} << 20;
constexpr int64_t kMostSlots = 8;

/// Thrown when the journal is intact, but the input has changed since it was written.
struct StaleJournal {};

/// Whether the journal's digests cover all bytes that its items were made from.
bool covers_items(const Journal& journal, const Plan& plan, const TensorSource& source) {
  for (size_t i = 0; i < journal.items; ++i) {
    const TensorInfo& info = plan.items[i].source;
    if (info.elements() == 0) continue;
    const auto extent = source.extent(info.name);
    if (!extent) return false;  // unknown which bytes it was made from
    const int64_t end = extent->offset + (info.shape.empty() ? 1 : info.shape[0]) * extent->row_bytes;
    if (std::ranges::none_of(journal.inputs, [&](const InputMark& m) { return m.file == extent->file && m.bytes >= end; }))
      return false;
  }
  return true;
}

/// A chunk in flight.
struct Slot {
  AlignedBuffer stored, out;
  std::span<const uint8_t> bytes;             // of the chunk, in `stored`
  std::vector<std::vector<RowError>> errors;  // by task, by grain
  std::exception_ptr failure;
  bool converted = false;
};

/// The threads of one run and the ring of chunks between them. See engine.h.
class Engine {
 public:
  Engine(const Plan& plan, const Checkpoint& model, const EngineOptions& options, const Journal& journal, HashLanes& lanes)
      : plan_(plan),
        options_(options),
        journal_(journal),
        conversion_(plan, model, options.gpu),
        digests_(model.tensors->files().size(), journal.inputs, lanes) {
    if (!covers_items(journal, plan, *model.tensors)) throw StaleJournal();
    for (const fs::path& file : model.tensors->files()) {
      readers_.push_back(std::make_unique<DirectReader>(file));
      sizes_.push_back(readers_.back()->size());
      total_ += sizes_.back();
    }
    result_.resumed_items = journal.items;
    result_.errors = journal.errors;
    result_.errors.resize(plan.items.size());
    chunks_ = cut_into_chunks(plan, model, sizes_, journal.items, options.block_bytes);
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
    conversion_.stop();
    for (std::thread& t : threads_) t.join();
  }

  EngineResult run(TensorSink& sink, const OutputFolder& partial, Resume& resume) {
    Progress progress(options_.label, total_ > 0 ? total_ : int64_t(chunks_.size()), total_ > 0 ? "bytes" : "blocks");
    if (journal_.bytes > 0) sink.skip(journal_.bytes);
    bytes_out_ = checkpointed_ = journal_.bytes;
    threads_.emplace_back([this] { read(); });
    threads_.emplace_back([this] { digest(); });
    for (int64_t i = 0; i < thread_count(); ++i) threads_.emplace_back([this] { convert(); });
    int64_t done = 0;
    for (size_t c = 0; c < chunks_.size(); ++c) {
      throw_if_interrupted();
      const Chunk& chunk = chunks_[c];
      Slot& slot = slot_of(c);
      wait([&] { return read_ > c && slot.converted; });
      if (digests_.mismatch()) throw StaleJournal();
      if (slot.failure) std::rethrow_exception(slot.failure);
      const bool complete = write(chunk, slot, sink);
      if (complete && bytes_out_ - checkpointed_ >= options_.checkpoint_bytes) checkpoint(c, sink, partial, resume);
      advance([&] {
        slot.converted = false;
        written_ = c + 1;
      });
      if (chunk.digest || total_ == 0) progress.update(done += total_ > 0 ? chunk.end - chunk.begin : 1);
    }
    wait([&] { return digested_ == chunks_.size(); });
    if (!digests_.all_expected_met()) throw StaleJournal();
    return finish();
  }

 private:
  Slot& slot_of(size_t chunk) { return slots_[chunk % slots_.size()]; }

  /// Waits until `ready`, called under the mutex. False when the run is over.
  template <class Ready>
  bool wait(Ready&& ready) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || ready(); });
    return !stopping_;
  }

  /// Changes the state of the ring under the mutex, and wakes all who wait for it.
  template <class Change>
  void advance(Change&& change) {
    {
      const std::lock_guard lock(mutex_);
      change();
    }
    changed_.notify_all();
  }

  /// Thread: reads chunks in order, until one fails.
  void read() {
    for (size_t c = 0; c < chunks_.size(); ++c) {
      if (!wait([&] { return c < written_ + slots_.size() && c < digested_ + slots_.size(); })) return;
      const Chunk& chunk = chunks_[c];
      Slot& slot = slot_of(c);
      try {
        slot.bytes = {};
        if (chunk.file >= 0) {
          slot.bytes = readers_[size_t(chunk.file)]->read(chunk.begin, chunk.end, slot.stored);
          result_.bytes_read += chunk.end - chunk.begin;
        }
        slot.out.reserve(chunk.out_bytes);
        for (const RowTask& task : chunk.tasks) conversion_.open(task.item);
      } catch (...) {
        slot.failure = std::current_exception();
      }
      const bool failed = slot.failure != nullptr;
      advance([&] {
        slot.converted = failed || chunk.tasks.empty();
        if (failed) broken_ = c;
        read_ = c + 1;
      });
      if (failed) return;
    }
  }

  /// Thread: digests chunks in order.
  void digest() {
    for (size_t c = 0; c < chunks_.size(); ++c) {
      bool readable = false;
      const bool running = wait([&] {
        readable = c != broken_;
        return read_ > c;
      });
      if (!running || !readable) return;
      const Chunk& chunk = chunks_[c];
      if (chunk.digest) digests_.update(size_t(chunk.file), slot_of(c).bytes);
      advance([&] { digested_ = c + 1; });
    }
  }

  /// Threads: each converts the next chunk that has been read.
  void convert() {
    while (const std::optional<size_t> c = claim()) {
      const Chunk& chunk = chunks_[*c];
      if (chunk.tasks.empty()) continue;
      Slot& slot = slot_of(*c);
      try {
        slot.errors.assign(chunk.tasks.size(), {});
        int64_t out = 0;
        for (size_t t = 0; t < chunk.tasks.size(); ++t) {
          const RowTask& task = chunk.tasks[t];
          const auto stored = chunk.file < 0
                                  ? std::span<const uint8_t>{}
                                  : slot.bytes.subspan(size_t(task.stored_at - chunk.begin), size_t(task.stored_bytes));
          if (!conversion_.convert(task, stored, {slot.out.data() + out, size_t(task.out_bytes)}, slot.errors[t])) return;
          out += task.out_bytes;
        }
      } catch (...) {
        slot.failure = std::current_exception();
      }
      advance([&] { slot.converted = true; });
    }
  }

  /// The next chunk to convert; nullopt when there are no more.
  std::optional<size_t> claim() {
    std::optional<size_t> claimed;
    wait([&] {
      if (claimed_ >= chunks_.size() || claimed_ == broken_) return true;
      if (claimed_ >= read_) return false;
      claimed = claimed_++;
      return true;
    });
    return claimed;
  }

  /// Writes a chunk. Returns whether it ends an item, so that the output can be resumed after it.
  bool write(const Chunk& chunk, const Slot& slot, TensorSink& sink) {
    int64_t at = 0;
    for (size_t t = 0; t < chunk.tasks.size(); ++t) {
      const RowTask& task = chunk.tasks[t];
      append(sink, {slot.out.data() + at, size_t(task.out_bytes)});
      at += task.out_bytes;
      for (const RowError& e : slot.errors[t]) result_.errors[task.item] += e;
      if (!task.last) continue;
      items_ = task.item + 1;
      for (const std::vector<uint8_t>& side : conversion_.close(task.item)) append(sink, side);
    }
    return !chunk.tasks.empty() && chunk.tasks.back().last;
  }

  void append(TensorSink& sink, std::span<const uint8_t> bytes) {
    sink.append(bytes);
    bytes_out_ += int64_t(bytes.size());
  }

  void checkpoint(size_t chunk, TensorSink& sink, const OutputFolder& partial, Resume& resume) {
    const std::vector<FileRecord> outputs = sink.sync();
    fsync_folder(partial.path());
    wait([&] { return digested_ > chunk; });  // the marks must cover all bytes that the items were made from
    checkpointed_ = bytes_out_;
    const Journal journal{
        items_, bytes_out_, {result_.errors.begin(), result_.errors.begin() + int64_t(items_)}, digests_.marks()};
    resume.write({outputs, to_json(journal, plan_)});
  }

  EngineResult finish() {
    result_.by_gpu = conversion_.by_gpu();
    result_.direct = !readers_.empty();
    for (size_t f = 0; f < readers_.size(); ++f) {
      readers_[f]->check_unchanged();
      OVERPROOF_CHECK(digests_.bytes(f) == sizes_[f]);
      result_.inputs.push_back({readers_[f]->path().string(), sizes_[f], digests_.finish(f)});
      result_.direct = result_.direct && readers_[f]->direct();
    }
    return std::move(result_);
  }

  const Plan& plan_;
  const EngineOptions& options_;
  const Journal& journal_;  // of an earlier run; empty when there is none
  RowConversion conversion_;
  InputDigests digests_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> sizes_;
  std::vector<std::unique_ptr<DirectReader>> readers_;
  EngineResult result_;
  int64_t total_ = 0, bytes_out_ = 0, checkpointed_ = 0;
  size_t items_ = 0;

  // Under mutex_: how far each thread is, in chunks.
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Slot> slots_;
  size_t read_ = 0, claimed_ = 0, digested_ = 0, written_ = 0;
  size_t broken_ = SIZE_MAX;  // the chunk that could not be read; none is read after it
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

EngineResult run_engine(const Plan& plan, const Checkpoint& model, const SinkMaker& make_sink, Outputs& outputs,
                        const EngineOptions& options) {
  const fs::path folder = outputs.scratch() / "partial";
  Resume resume(outputs.scratch(), outputs.stage_key(), folder);
  for (bool may_resume = true;; may_resume = false) {
    HashLanes lanes;  // shared by the digests of input and output, which are computed at the same time
    std::optional<OutputFolder> partial(std::in_place, folder, Unfinished::kept, &lanes);
    std::optional<Journal> journal;
    if (may_resume)
      if (const std::optional<ResumePoint> point = resume.read(&*partial)) journal = journal_from_json(point->progress, plan);
    if (!journal) {
      resume.clear();  // before the files that it names
      std::error_code error;
      fs::remove_all(folder, error);
      fs::create_directories(folder, error);
      if (error) throw IoError(folder, "cannot create this folder", error.value());
      int64_t bytes = 0;
      for (const TensorInfo& out : plan.outputs) bytes += out.bytes();
      require_room(folder, bytes);
      partial.emplace(folder, Unfinished::kept, &lanes);
      journal.emplace();
    }
    try {
      Engine engine(plan, model, options, *journal, lanes);
      const std::unique_ptr<TensorSink> sink = make_sink(*partial, plan.outputs);
      EngineResult result = engine.run(*sink, *partial, resume);
      sink->close();
      outputs.folder().adopt(*partial);
      return result;
    } catch (const StaleJournal&) {
    }
  }
}

void note_digests(Outputs& outputs, const std::string& slot, const Checkpoint& model, const EngineResult& made) {
  const bool one_file = !fs::is_directory(model.path);
  for (const FileRecord& record : made.inputs) {
    const fs::path file = record.name;
    outputs.note_input_digest(slot, {one_file ? file.filename().string() : file.lexically_relative(model.path).generic_string(),
                                     record.bytes, record.digest});
  }
}

}  // namespace overproof
