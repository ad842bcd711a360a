#include "teacher/teach_stage.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/order.h"
#include "data/tokenizer.h"
#include "records/batch_spool.h"

namespace overproof {
namespace {

constexpr int64_t kLogitRows = 256;  // rows of logits in memory at a time

/// Everything that decides what a row is.
struct Lesson {
  const Decoder& teacher;
  const Corpus& corpus;
  const TrainingOrder& order;
  const RowEncoding& encoding;
};

/// Encodes rows [first, first + logits.size(0)) of a batch whose row r belongs to stream position positions[r].
void encode_rows(const Lesson& lesson, const at::Tensor& logits, std::span<const int64_t> positions, EncodedRows& out) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  constexpr int64_t kPiece = 16;
  std::vector<EncodedRows> pieces(size_t((rows + kPiece - 1) / kPiece));
  const float* values = logits.const_data_ptr<float>();
  at::parallel_for(0, int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t p = begin; p < end; ++p) {
      EncodedRows& piece = pieces[size_t(p)];
      for (int64_t r = p * kPiece; r < std::min(rows, (p + 1) * kPiece); ++r) {
        const int64_t position = positions[size_t(r)];
        const Document& document = lesson.corpus.document_at(Split::train, position);
        const std::span<const float> row(values + r * vocab, size_t(vocab));
        piece.lengths.push_back(
            uint8_t(encode_row(row, lesson.encoding, document.digest, position - document.first_token, scratch, piece.entries)));
      }
    }
  });
  for (const EncodedRows& piece : pieces) {
    out.lengths.insert(out.lengths.end(), piece.lengths.begin(), piece.lengths.end());
    out.entries.insert(out.entries.end(), piece.entries.begin(), piece.entries.end());
  }
}

/// Blocks [first, first + count) through the teacher together; only `want` rows of them, from row `skip`, are encoded.
EncodedRows teach_batch(const Lesson& lesson, int64_t first, int64_t count, int64_t skip = 0, int64_t want = INT64_MAX) {
  at::NoGradGuard no_grad;
  const int64_t length = lesson.corpus.window_length();
  const at::Tensor tokens = at::empty({count, length}, at::kLong);
  std::vector<int64_t> ids(size_t(length) + 1), positions;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t window = lesson.order.window_of_block(first + b);
    lesson.corpus.read_window(Split::train, window, ids);
    std::copy_n(ids.begin(), length, tokens.data_ptr<int64_t>() + b * length);
    for (int64_t i = 0; i < length; ++i) positions.push_back(window * length + i);
  }
  const at::Tensor hidden = lesson.teacher.hidden(tokens);
  EncodedRows rows;
  const int64_t end = std::min(hidden.size(0), want == INT64_MAX ? want : skip + want);
  for (int64_t r = 0; r < hidden.size(0); r += kLogitRows) {
    const int64_t n = std::min(kLogitRows, hidden.size(0) - r);
    const int64_t from = std::max(r, skip), to = std::min(r + n, end);
    if (from >= to) continue;
    const at::Tensor logits = lesson.teacher.logits(hidden.narrow(0, r, n));  // always the whole chunk: same company, same bits
    encode_rows(lesson, logits.narrow(0, from - r, to - from), std::span(positions).subspan(size_t(from), size_t(to - from)),
                rows);
  }
  return rows;
}

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
  const Digest probe = open_tokenizer(inputs.path("teacher"))->probe();
  if (probe != corpus.tokenizer_probe())
    throw UsageError(
        "the corpus was cut into tokens by another tokenizer than the teacher's; make the corpus with the teacher's tokenizer");
  const Decoder teacher(open_checkpoint(inputs.path("teacher")));
  RowEncoding encoding;
  encoding.kind = config.mode == "sample" ? RowEncoding::Kind::sample : RowEncoding::Kind::top_k;
  encoding.count = config.mode == "sample" ? config.draws : config.k;
  encoding.temperature = config.temperature;
  encoding.seed = config.seed;
  const int64_t vocab = teacher.config().vocab_size, length = corpus.window_length(), windows = corpus.windows(Split::train);
  if (vocab > encoding.max_vocab())
    throw UsageError(fmt::format("a vocabulary of {} ids does not fit soft targets of kind '{}' (at most {})", vocab, config.mode,
                                 encoding.max_vocab()));
  const int64_t blocks = std::min(config.tokens / length, windows);
  if (blocks < 1)
    throw UsageError(fmt::format("{} tokens are less than one window of {}, or the corpus has none", config.tokens, length));

  const Digest key = order_key(inputs.root("corpus"), config.seed, config.order_beacon);
  const TrainingOrder order(key, windows, blocks);
  const Lesson lesson{teacher, corpus, order, encoding};
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
      spool.append(teach_batch(lesson, q, count));
      taught += count * length;
      progress.update((q + count) * length);
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  Metadata metadata = {{"format_version", "1"},
                       {"kind", config.mode},
                       {"count", fmt::format("{}", encoding.count)},
                       {"temperature", fmt::format("{}", encoding.temperature)},
                       {"vocab_size", fmt::format("{}", vocab)},
                       {"window_length", fmt::format("{}", length)},
                       {"batch_windows", fmt::format("{}", batch)},
                       {"seed", fmt::format("{}", config.seed)},
                       {"order_key", key.hex()},
                       {"corpus_root", inputs.root("corpus").hex()},
                       {"teacher_root", inputs.root("teacher").hex()},
                       {"tokenizer_probe", probe.hex()}};
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

std::vector<uint8_t> rederive_row(const Decoder& teacher, const Corpus& corpus, const SoftTargets& targets, int64_t row) {
  OVERPROOF_CHECK(row >= 0 && row < targets.blocks() * targets.window_length());
  if (corpus.window_length() != targets.window_length())
    throw UsageError("soft targets and corpus have windows of different lengths");
  const TrainingOrder order(targets.order_key(), corpus.windows(Split::train), targets.blocks());
  const int64_t block = row / targets.window_length(), first = block / targets.batch_windows() * targets.batch_windows();
  const int64_t count = std::min(targets.batch_windows(), targets.blocks() - first);
  return teach_batch({teacher, corpus, order, targets.encoding()}, first, count, row - first * targets.window_length(), 1)
      .entries;
}

}  // namespace overproof
