// Teacher forward and distillation step, with the peak memory of the process so far:
//
//   bench_training forward MODEL | step STUDENT | live STUDENT TEACHER | loss | loss-materialised | limit
//                  [--windows 4] [--length 256] [--repeat 3] [--threads N] [--compute f32|bf16]
//
// `step` is a step of `distill` on stored soft targets (32 ids a token): forward, loss, backward, AdamW over every weight. `live` is
// a step of `calibrate`: a teacher runs alongside and the KL is over the whole vocabulary. `counting_share` is the fraction of a
// step spent on counting the experts of each source. `loss` is the KL and its gradients alone, of random states of the size of
// SmolLM2 (576 wide, 49,152 ids); `loss-materialised` is the same by autograd over whole logits. `limit` is the rate of large matrix
// products, one a thread at the same time, for a second of CPU time. Seconds are wall time and CPU time of the process, the least of all repetitions. Prints
// one JSON object. benchmarks/training.py compares it with transformers.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "benchmarks/timing.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "data/token_batch.h"
#include "distill/losses/losses.h"
#include "distill/router_counter.h"
#include "distill/trainer.h"
#include "model/decoder.h"
#include "model/ops/gemm.h"
#include "model/ops/products.h"
#include "model/torch_setup.h"

using namespace overproof;

namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Best {
  double wall = 1e30, cpu = 1e30;
  template <class Body>
  void time(const Body& body) {
    const double before = cpu_seconds();
    wall = std::min(wall, seconds_of(body));
    cpu = std::min(cpu, cpu_seconds() - before);
  }
};

double peak_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_maxrss) / (1 << 20);
}

at::Tensor random_windows(int64_t windows, int64_t length, int64_t vocab) {
  Rng rng(7, "benchmark/tokens");
  at::Tensor ids = at::empty({windows, length}, at::kLong);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.data_ptr<int64_t>()[i] = int64_t(rng.below(uint64_t(vocab)));
  return ids;
}

/// Every token through body and head, logits in chunks, as in teaching.
void forward_all(const Decoder& model, const at::Tensor& ids) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = model.hidden(ids);
  for (int64_t row = 0; row < hidden.size(0); row += 256) {
    const at::Tensor logits = model.logits(hidden.narrow(0, row, std::min<int64_t>(256, hidden.size(0) - row)));
    if (!std::isfinite(logits.sum().item<double>())) throw std::runtime_error("a logit is not finite");
  }
}

/// Seconds to count the experts of a step's tokens (distill/router_counter.h).
double counting_seconds(const Decoder& model, const at::Tensor& ids) {
  at::NoGradGuard no_grad;
  std::vector<RouterRecord> routing;
  ForwardOptions options;
  options.routing = &routing;
  options.record_selected = true;
  model.hidden(ids, options);
  std::vector<std::string> sources;
  for (int i = 0; i < 100; ++i) sources.push_back(fmt::format("source-{:02d}", i));
  RouterCounter counter(sources, model.config().layers, model.config().n_routed_experts);
  std::vector<int32_t> token_sources(size_t(ids.numel()));
  for (size_t i = 0; i < token_sources.size(); ++i)
    token_sources[i] = int32_t(i / 50 % sources.size());  // documents of 50 tokens
  constexpr int kRepeat = 20;
  const double seconds = seconds_of([&] {
    for (int r = 0; r < kRepeat; ++r) counter.add(routing, token_sources);
  });
  const RouterCounts counts = counter.result();
  if (counts.all_tokens() != kRepeat * ids.numel() || counts.of_source(0, 0) != model.config().top_k * counts.tokens[0])
    throw std::runtime_error("the counts do not add up");
  return seconds / kRepeat;
}

struct LossCase {
  at::Tensor hidden, head, teacher_hidden, teacher_head;
};

LossCase random_states(int64_t tokens) {
  constexpr int64_t kHidden = 576, kVocab = 49152;
  at::manual_seed(7);
  return {at::randn({tokens, kHidden}), at::randn({kVocab, kHidden}).mul_(0.05), at::randn({tokens, kHidden}),
          at::randn({kVocab, kHidden}).mul_(0.05)};
}

/// Mean KL; the gradients of hidden states and head are made and checked to be finite.
double loss_in_chunks(const LossCase& c) {
  at::Tensor d_hidden, d_head = at::zeros_like(c.head);
  const int64_t tokens = c.hidden.size(0);
  LossOptions options;
  options.grad_scale = 1.0 / double(tokens);
  const Targets targets{.states = {{c.teacher_hidden, c.teacher_head}}};
  const LossSums sums = chunked_loss(c.hidden, c.head, targets, 0, {}, options, &d_hidden, &d_head);
  if (!std::isfinite((d_hidden.sum() + d_head.sum()).item<double>())) throw std::runtime_error("a gradient is not finite");
  return sums.values[0] / double(tokens);
}

double materialised_loss(const LossCase& c) {
  const at::Tensor hidden = c.hidden.detach().requires_grad_(), head = c.head.detach().requires_grad_();
  at::Tensor log_p;
  {
    at::NoGradGuard no_grad;
    log_p = at::log_softmax(at::mm(c.teacher_hidden, c.teacher_head.t()), 1);
  }
  const at::Tensor log_q = at::log_softmax(at::mm(hidden, head.t()), 1);
  const at::Tensor loss = (log_p.exp() * (log_p - log_q)).sum() / double(hidden.size(0));
  loss.backward();
  if (!std::isfinite((hidden.grad().sum() + head.grad().sum()).item<double>()))
    throw std::runtime_error("a gradient is not finite");
  return loss.item<double>();
}

/// Largest rate of a [2048, 2048] product on every thread at once: operations a second of one thread's CPU time.
double product_limit(at::ScalarType type) {
  constexpr int64_t kSize = 2048;
  const int64_t threads = thread_count();
  std::vector<at::Tensor> a, b, c;
  for (int64_t t = 0; t < threads; ++t) {
    a.push_back(at::randn({kSize, kSize}).to(type));
    b.push_back(at::randn({kSize, kSize}).to(type));
    c.push_back(at::empty({kSize, kSize}, type));
  }
  Best best;
  for (int r = 0; r < 6; ++r)
    best.time([&] {
      at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
        at::NoGradGuard no_grad;
        for (int64_t t = begin; t < end; ++t) ops::cpu::gemm(c[size_t(t)], a[size_t(t)], b[size_t(t)].t());
      });
    });
  return 2.0 * double(kSize) * double(kSize) * double(kSize) * double(threads) / best.cpu;
}

/// 32 sampled ids a row, as `teach` stores them.
Targets stored_targets(int64_t rows, int64_t vocab) {
  constexpr int64_t kIds = 32;
  Rng rng(7, "benchmark/targets");
  Targets targets;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < kIds; ++i) {
      targets.sparse.ids.push_back(int32_t(i * (vocab / kIds) + int64_t(rng.below(uint64_t(vocab / kIds)))));
      targets.sparse.probabilities.push_back(1.0f / float(kIds));
    }
    targets.sparse.offsets.push_back((r + 1) * kIds);
    targets.sparse.tail.push_back(0.0f);
  }
  return targets;
}

}  // namespace

int main(int argc, char** argv) try {
  ensure_short_waiting(argv);
  std::string mode = argc > 1 ? argv[1] : "", compute = "f32";
  std::vector<std::string> models;
  int64_t windows = 4, length = 256, repeat = 3, threads = 0;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    int64_t* number = word == "--windows"   ? &windows
                      : word == "--length"  ? &length
                      : word == "--repeat"  ? &repeat
                      : word == "--threads" ? &threads
                                            : nullptr;
    if (number && i + 1 < argc) *number = std::atoll(argv[++i]);
    else if (word == "--compute" && i + 1 < argc) compute = argv[++i];
    else models.push_back(word);
  }
  const bool loss_only = mode == "loss" || mode == "loss-materialised";
  const size_t wanted = mode == "forward" || mode == "step" ? 1 : mode == "live" ? 2 : loss_only || mode == "limit" ? 0 : 99;
  if (models.size() != wanted || (compute != "f32" && compute != "bf16"))
    throw UsageError(
        "usage: bench_training forward MODEL | step STUDENT | live STUDENT TEACHER | loss | loss-materialised | limit [--windows N] "
        "[--length N] [--repeat N] [--threads N] [--compute f32|bf16]");
  set_thread_count(threads);
  prepare_torch();
  if (compute == "bf16") ops::set_product_type(ops::ProductType::bf16);
  Best best;
  double loss = 0, counting = 0;
  const double tokens = double(windows * length);
  if (mode == "limit") {
    fmt::print("{}\n", Json{{"f32", product_limit(at::kFloat)}, {"bf16", product_limit(at::kBFloat16)}}.dump());
    return 0;
  }
  if (loss_only) {
    const LossCase states = random_states(windows * length);
    for (int64_t r = 0; r < repeat; ++r) best.time([&] { loss = mode == "loss" ? loss_in_chunks(states) : materialised_loss(states); });
  } else if (mode == "forward") {
    const KeepFreedMemory keep_freed_memory;  // as `teach` has it
    const Decoder model(open_checkpoint(models[0]));
    const at::Tensor ids = random_windows(windows, length, model.config().vocab_size);
    forward_all(model, ids);
    for (int64_t r = 0; r < repeat; ++r) best.time([&] { forward_all(model, ids); });
  } else {
    Decoder student(open_checkpoint(models[0]));
    std::optional<Decoder> teacher;
    if (mode == "live") teacher.emplace(open_checkpoint(models[1]));
    TrainOptions options;
    options.train = {"all"};
    options.steps = repeat + 1;
    options.micro_batch = std::min(options.micro_batch, windows);  // the default of `distill`
    Trainer trainer(student, options);
    const int64_t vocab = student.config().vocab_size;
    const at::Tensor ids = random_windows(windows, length, vocab);
    TokenBatch batch{windows, length, {}, {}, std::vector<float>(size_t(windows * length), 1.0f)};
    for (int64_t w = 0; w < windows; ++w) {  // one more id for the last label
      batch.ids.insert(batch.ids.end(), ids.const_data_ptr<int64_t>() + w * length,
                       ids.const_data_ptr<int64_t>() + (w + 1) * length);
      batch.ids.push_back(0);
    }
    batch.segment.resize(batch.weight.size());
    const Targets stored = stored_targets(windows * length, vocab);
    LossOptions of_loss;
    const auto step = [&] {
      loss = trainer
                 .step(batch, of_loss.terms,
                       [&](const Trainer::Pass& pass) {
                         of_loss.grad_scale = pass.grad_scale;
                         if (teacher) {
                           at::NoGradGuard no_grad;
                           const at::Tensor taught = teacher->hidden(ids.narrow(0, pass.first, pass.count));
                           return chunked_loss(pass.hidden, student.head(), {.states = {{taught, teacher->head()}}}, 0, {}, of_loss, pass.d_hidden,
                                               pass.d_head);
                         }
                         return chunked_loss(pass.hidden, student.head(), stored, pass.first * length, {}, of_loss, pass.d_hidden, pass.d_head);
                       })
                 .loss;
    };
    step();  // allocates gradients and moments
    for (int64_t r = 0; r < repeat; ++r) best.time(step);
    if (!std::isfinite(loss)) throw std::runtime_error("the loss is not finite");
    if (student.config().is_moe()) counting = counting_seconds(student, ids) / best.wall;
  }
  fmt::print("{}\n", Json{{"tokens_per_second", tokens / best.wall},
                          {"cpu_seconds", best.cpu},
                          {"peak_gib", peak_gib()},
                          {"loss", loss},
                          {"counting_share", counting}}
                         .dump());
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_training: {}\n", e.what());
  return 1;
}
