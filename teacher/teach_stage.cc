#include "teacher/teach_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/order.h"
#include "data/private_corpus.h"
#include "model/open_model.h"
#include "model/torch_setup.h"
#include "records/batch_spool.h"
#include "records/soft_targets.h"
#include "teacher/teach_rows.h"

namespace overproof {
namespace {

struct Shard {
  int64_t number = 1, count = 1;
};

Shard parse_shard(const std::string& text) {
  const size_t slash = text.find('/');
  const auto number = [&](std::string_view part) -> int64_t {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    return error == std::errc() && end == part.data() + part.size() ? value : 0;
  };
  Shard shard;
  if (slash != std::string::npos)
    shard = {number(std::string_view(text).substr(0, slash)), number(std::string_view(text).substr(slash + 1))};
  if (slash == std::string::npos || shard.number < 1 || shard.number > shard.count)
    throw UsageError(fmt::format("option 'shard' is '{}'; it is a part and the number of parts, as 2/4", text));
  return shard;
}

StageReport teach(const TeachConfig& config, const std::optional<Shard>& shard, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const Corpus corpus(inputs.path("corpus"));
  const Decoder teacher = open_model_for(corpus, inputs, "teacher");
  const ComputeChoice compute = use_compute(config.compute, teacher.config().hidden_size, outputs);
  const KeepFreedMemory keep_freed_memory;
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
    throw MismatchError(
        fmt::format("no window to teach: option 'tokens' is {}, a window has {}, the corpus has {} training windows",
                    config.tokens, length, windows));

  const Digest key = order_key(inputs.root("corpus"), config.seed, config.order_beacon);
  const TrainingOrder order(key, windows, blocks);
  const TeachContext context{teacher, corpus, order, encoding, corpus_batch_salt(inputs.path("corpus")), corpus.has_mask()};
  const int64_t batch = config.batch_windows, batches = (blocks + batch - 1) / batch;
  // Rows have the bits of their batch, so parts are whole batches.
  const int64_t begin = shard ? batches * (shard->number - 1) / shard->count * batch : 0;
  const int64_t end = shard ? std::min(batches * shard->number / shard->count * batch, blocks) : blocks;
  if (begin >= end)
    throw UsageError(fmt::format("option 'shard': {} batches of windows are fewer than {} parts, so part {} would be empty", batches, shard->count,
                                 shard->number));
  BatchSpool spool(outputs.scratch(), outputs.stage_key(), {encoding.entry_bytes(), batch * length, (end - begin) * length});
  int64_t taught = 0;
  const auto start = std::chrono::steady_clock::now();
  {
    const int64_t there = std::min(begin + spool.batches() * batch, end);
    Progress progress("teach", (end - begin) * length, "tokens", (there - begin) * length);
    for (int64_t q = there; q < end; q += batch) {
      throw_if_interrupted();
      const int64_t count = std::min(batch, end - q);
      spool.append(teach_batch(context, q, count));
      taught += count * length;
      progress.update((q - begin + count) * length);
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  SoftTargetsOrigin origin = {.corpus_root = inputs.root("corpus"),
                                    .teacher_root = inputs.root("teacher"),
                                    .order_key = key,
                                    .order_beacon = config.order_beacon,
                                    .evidence = Evidence::re_derivable};  // from a teacher with a digest
  if (shard) origin.part = {begin, blocks, compute.name()};
  const SoftTargetsSize size = write_soft_targets({.origin = origin,
                                                   .encoding = encoding,
                                                   .vocab_size = vocab,
                                                   .window_length = length,
                                                   .batch_windows = batch,
                                                   .tokenizer = corpus.tokenizer(),
                                                   .masked = corpus.has_mask()},
                                                  [&](const auto& body) { spool.for_each(body); }, outputs.folder());

  const double stored = double(std::max<int64_t>(size.stored, 1)), bytes = double(size.bytes) / stored, ids = double(size.entries) / stored;
  StageReport report;
  report.metrics() = {{"windows", end - begin},
                      {"tokens", size.rows},
                      {"bytes_per_token", bytes},
                      {"ids_per_token", ids},
                      {"evidence", evidence_name(origin.evidence)},
                      {kComputeMetric, compute.name()}};
  report.summary = {fmt::format("taught {} tokens in {} windows of {} (the corpus has {})", size.rows, end - begin, length, windows),
                    fmt::format("{:.1f} bytes and {:.1f} distinct ids a token", bytes, ids), compute.summary()};
  if (corpus.has_mask()) {
    report.metrics()["trained_tokens"] = size.stored;
    report.summary.push_back(fmt::format("{} of the tokens are trained and have rows; bytes and ids are of these", size.stored));
  }
  if (taught > 0)
    report.summary.push_back(fmt::format("{} tokens taught now, {:.0f} a second", taught, double(taught) / seconds));
  return report;
}

}  // namespace

StageReport run_teach(const TeachConfig& config, const Inputs& inputs, Outputs& outputs) { return teach(config, std::nullopt, inputs, outputs); }

StageReport run_teach_shard(const TeachShardConfig& config, const Inputs& inputs, Outputs& outputs) {
  return teach(config, parse_shard(config.shard), inputs, outputs);
}

}  // namespace overproof
