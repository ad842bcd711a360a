#include "teacher/teach_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/order.h"
#include "data/private_corpus.h"
#include "model/open_model.h"
#include "records/soft_targets.h"
#include "teacher/teach_rows.h"

namespace overproof {

StageReport run_teach(const TeachConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const Corpus corpus(inputs.path("corpus"));
  const Decoder teacher = open_model_for(corpus, inputs, "teacher");
  const ComputeChoice compute = use_compute(config.compute, teacher.config().hidden_size, outputs);
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
  const TeachContext context{teacher, corpus, order, encoding, corpus_batch_salt(inputs.path("corpus"))};
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

  const SoftTargetsOrigin origin = {.corpus_root = inputs.root("corpus"),
                                    .teacher_root = inputs.root("teacher"),
                                    .order_key = key,
                                    .order_beacon = config.order_beacon,
                                    .evidence = Evidence::re_derivable};  // from a teacher with a digest
  const SoftTargetsSize size = write_soft_targets({.origin = origin,
                                                   .encoding = encoding,
                                                   .vocab_size = vocab,
                                                   .window_length = length,
                                                   .batch_windows = batch,
                                                   .tokenizer = corpus.tokenizer()},
                                                  spool, outputs.folder());

  const double bytes = double(size.bytes) / double(size.rows), ids = double(size.entries) / double(size.rows);
  StageReport report;
  report.metrics() = {{"windows", blocks},
                      {"tokens", size.rows},
                      {"bytes_per_token", bytes},
                      {"ids_per_token", ids},
                      {"evidence", evidence_name(origin.evidence)},
                      {kComputeMetric, compute.name()}};
  report.summary = {fmt::format("taught {} tokens in {} windows of {} (the corpus has {})", size.rows, blocks, length, windows),
                    fmt::format("{:.1f} bytes and {:.1f} distinct ids a token", bytes, ids), compute.summary()};
  if (taught > 0)
    report.summary.push_back(fmt::format("{} tokens taught now, {:.0f} a second", taught, double(taught) / seconds));
  return report;
}

}  // namespace overproof
