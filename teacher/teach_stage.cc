#include "teacher/teach_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/order.h"
#include "model/open_model.h"
#include "records/batch_spool.h"
#include "teacher/teach_rows.h"

namespace overproof {
namespace {

struct Totals {
  int64_t rows = 0, entries = 0, entry_bytes = 0;
};

/// Writes targets.safetensors from the finished batches, in three passes over the spool rather than all of it in memory.
Totals write_targets(const BatchSpool& spool, int64_t blocks, int64_t length, const RowEncoding& encoding, const Metadata& metadata,
                     OutputFolder& folder) {
  std::vector<int64_t> offsets = {0};
  spool.for_each([&](std::span<const uint8_t> lengths, std::span<const uint8_t>) {
    for (size_t r = 0; r < lengths.size(); r += size_t(length)) {
      int64_t entries = 0;
      for (int64_t i = 0; i < length; ++i) entries += lengths[r + size_t(i)];
      offsets.push_back(offsets.back() + entries * encoding.entry_bytes());
    }
  });
  // Widest elements first, so that each tensor stays aligned.
  SafetensorsWriter writer(folder, "targets.safetensors",
                           {{"block_offsets", DType::i64, {blocks + 1}},
                            {"row_lengths", DType::u8, {blocks * length}},
                            {"entries", DType::u8, {offsets.back()}}},
                           metadata);
  writer.append(offsets.data(), offsets.size() * sizeof(int64_t));
  spool.for_each([&](std::span<const uint8_t> lengths, std::span<const uint8_t>) { writer.append(lengths.data(), lengths.size()); });
  spool.for_each([&](std::span<const uint8_t>, std::span<const uint8_t> entries) { writer.append(entries.data(), entries.size()); });
  writer.close();
  return {blocks * length, offsets.back() / encoding.entry_bytes(), offsets.back() + blocks * length + 8 * (blocks + 1)};
}

}  // namespace

StageReport run_teach(const TeachConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const Corpus corpus(inputs.path("corpus"));
  const Decoder teacher = open_model_for(corpus, inputs, "teacher");
  RowEncoding encoding;
  const bool sample = config.mode == RowEncoding::Kind::sample;
  encoding.kind = config.mode;
  encoding.count = sample ? config.draws : config.k;
  encoding.temperature = config.temperature;
  encoding.seed = config.seed;
  const char* kind = sample ? "sample" : "top-k";
  const int64_t vocab = teacher.config().vocab_size, length = corpus.window_length(), windows = corpus.windows(Split::train);
  if (vocab > encoding.max_vocab())
    throw MismatchError(fmt::format("the teacher's vocabulary of {} ids is too large for soft targets of kind '{}' (at most {})",
                                    vocab, kind, encoding.max_vocab()));
  const int64_t blocks = std::min(config.tokens / length, windows);
  if (blocks < 1)
    throw MismatchError(fmt::format("no window to teach: option 'tokens' is {}, a window has {}, the corpus has {} training windows",
                                    config.tokens, length, windows));

  const Digest key = order_key(inputs.root("corpus"), config.seed, config.order_beacon);
  const TrainingOrder order(key, windows, blocks);
  const TeachContext context{teacher, corpus, order, encoding};
  const int64_t batch = config.batch_windows;
  BatchSpool spool(outputs.scratch(), outputs.stage_key(), {encoding.entry_bytes(), batch * length, blocks * length});
  int64_t taught = 0;
  const auto start = std::chrono::steady_clock::now();
  {
    const int64_t there = std::min(spool.batches() * batch, blocks);
    Progress progress("teach", blocks * length, "tokens", there * length);
    for (int64_t q = there; q < blocks; q += batch) {
      throw_if_interrupted();
      const int64_t count = std::min(batch, blocks - q);
      spool.append(teach_batch(context, q, count));
      taught += count * length;
      progress.update((q + count) * length);
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  Metadata metadata = {{"format_version", "1"},
                       {"kind", kind},
                       {"count", fmt::format("{}", encoding.count)},
                       {"temperature", fmt::format("{}", encoding.temperature)},
                       {"vocab_size", fmt::format("{}", vocab)},
                       {"window_length", fmt::format("{}", length)},
                       {"batch_windows", fmt::format("{}", batch)},
                       {"seed", fmt::format("{}", config.seed)},
                       {"order_key", key.hex()},
                       {"corpus_root", inputs.root("corpus").hex()},
                       {"teacher_root", inputs.root("teacher").hex()}};
  corpus.tokenizer().put_into(metadata);
  if (!config.order_beacon.empty()) metadata["order_beacon"] = config.order_beacon;
  const Totals totals = write_targets(spool, blocks, length, encoding, metadata, outputs.folder());

  const double bytes = double(totals.entry_bytes) / double(totals.rows), ids = double(totals.entries) / double(totals.rows);
  StageReport report;
  report.metrics() = {{"windows", blocks}, {"tokens", totals.rows}, {"bytes_per_token", bytes}, {"ids_per_token", ids}};
  report.summary = {fmt::format("taught {} tokens in {} windows of {} (the corpus has {})", totals.rows, blocks, length, windows),
                    fmt::format("{:.1f} bytes and {:.1f} distinct ids a token", bytes, ids)};
  if (taught > 0)
    report.summary.push_back(fmt::format("{} tokens taught now, {:.0f} a second", taught, double(taught) / seconds));
  return report;
}

}  // namespace overproof
