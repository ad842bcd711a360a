// Teacher forward and distillation step in tokens per second, with the peak memory of the process so far:
//
//   bench_training forward|step|loss|loss-materialised CHECKPOINT... [--windows 4] [--length 256] [--repeat 3]
//
// `step` takes student and teacher: forward, KL over the whole vocabulary, backward, AdamW over every weight; `counting_share` is
// the fraction of a step spent on counting the experts of each source. `loss` is the KL and its gradients alone, of random states of the size
// of SmolLM2 (576 wide, 49,152 ids); `loss-materialised` is the same by autograd over whole logits. Prints one JSON object.
// benchmarks/training.py compares it with transformers.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <cmath>
#include <cstdlib>
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

using namespace overproof;

namespace {

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

}  // namespace

int main(int argc, char** argv) try {
  ensure_passive_waiting(argv);
  std::string mode = argc > 1 ? argv[1] : "";
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
    else models.push_back(word);
  }
  const bool loss_only = mode == "loss" || mode == "loss-materialised";
  if ((mode != "forward" || models.size() != 1) && (mode != "step" || models.size() != 2) && (!loss_only || !models.empty()))
    throw UsageError(
        "usage: bench_training forward MODEL | step STUDENT TEACHER | loss | loss-materialised [--windows N] [--length N] "
        "[--repeat N] [--threads N]");
  set_thread_count(threads);
  prepare_torch();
  double best = 0, loss = 0, counting = 0;
  if (loss_only) {
    const LossCase states = random_states(windows * length);
    for (int64_t r = 0; r < repeat; ++r)
      best = std::max(best, double(windows * length) /
                                seconds_of([&] { loss = mode == "loss" ? loss_in_chunks(states) : materialised_loss(states); }));
  } else if (mode == "forward") {
    const Decoder model(open_checkpoint(models[0]));
    const at::Tensor ids = random_windows(windows, length, model.config().vocab_size);
    forward_all(model, ids);
    for (int64_t r = 0; r < repeat; ++r)
      best = std::max(best, double(ids.numel()) / seconds_of([&] { forward_all(model, ids); }));
  } else {
    Decoder student(open_checkpoint(models[0]));
    const Decoder teacher(open_checkpoint(models[1]));
    TrainOptions options;
    options.train = {"all"};
    options.steps = repeat + 1;
    options.micro_batch = windows;
    Trainer trainer(student, options);
    const at::Tensor ids = random_windows(windows, length, student.config().vocab_size);
    at::Tensor taught;
    {
      at::NoGradGuard no_grad;
      taught = teacher.hidden(ids).view({windows, length, -1});
    }
    TokenBatch batch{windows, length, {}, {}, std::vector<float>(size_t(windows * length), 1.0f)};
    for (int64_t w = 0; w < windows; ++w) {  // one more id for the last label
      batch.ids.insert(batch.ids.end(), ids.const_data_ptr<int64_t>() + w * length,
                       ids.const_data_ptr<int64_t>() + (w + 1) * length);
      batch.ids.push_back(0);
    }
    batch.segment.resize(batch.weight.size());
    LossOptions options_of_loss;
    const auto step = [&] {
      loss = trainer
                 .step(batch, options_of_loss.terms,
                       [&](int64_t first, int64_t count, const at::Tensor& hidden, double scale, at::Tensor* d_hidden,
                           at::Tensor* d_head) {
                         const at::Tensor rows = taught.narrow(0, first, count).reshape({count * length, -1});
                         const Targets targets{.states = {{rows, teacher.head()}}};
                         options_of_loss.grad_scale = scale;
                         return chunked_loss(hidden, student.head(), targets, 0, {}, options_of_loss, d_hidden, d_head);
                       })
                 .loss;
    };
    step();  // allocates gradients and moments
    for (int64_t r = 0; r < repeat; ++r) best = std::max(best, double(ids.numel()) / seconds_of(step));
    if (!std::isfinite(loss)) throw std::runtime_error("the loss is not finite");
    if (student.config().is_moe()) counting = counting_seconds(student, ids) * best / double(ids.numel());
  }
  fmt::print("{}\n",
             Json{{"tokens_per_second", best}, {"peak_gib", peak_gib()}, {"loss", loss}, {"counting_share", counting}}.dump());
  return 0;
} catch (const std::exception& e) {
  fmt::print(stderr, "bench_training: {}\n", e.what());
  return 1;
}
