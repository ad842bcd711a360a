#include "evaluate/compare.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// f32 logits at a time: 32 MiB, whatever the vocabulary.
constexpr int64_t kLogitsPerChunk = int64_t{8} << 20;

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Nearest-rank percentile of `values`, which are reordered.
double percentile(std::vector<double>& values, double p) {
  const size_t rank = size_t(std::max(1.0, std::ceil(p * double(values.size()))));
  std::nth_element(values.begin(), values.begin() + int64_t(rank - 1), values.end());
  return values[rank - 1];
}

/// The middle of each of equal parts of `available` windows; read(window, ids) fills [length + 1] ids.
TokenWindows spread_windows(int64_t available, int64_t length, int64_t tokens, int64_t batch,
                            const std::function<void(int64_t window, std::span<int64_t> ids)>& read) {
  TokenWindows result;
  result.windows = std::min(available, (tokens + length - 1) / length);
  std::vector<int64_t> ids(size_t(length) + 1);
  std::vector<at::Tensor> labels, rows;
  for (int64_t w = 0; w < result.windows; ++w) {
    read(int64_t((__int128(2 * w + 1) * available) / (2 * result.windows)), ids);
    const at::Tensor row = at::from_blob(ids.data(), {length + 1}, at::kLong).clone();
    rows.push_back(row.narrow(0, 0, length));
    labels.push_back(row.narrow(0, 1, length));
    if (int64_t(rows.size()) == batch || w + 1 == result.windows) {
      result.batches.push_back(at::stack(rows));
      rows.clear();
    }
  }
  result.labels = at::cat(labels);
  return result;
}

}  // namespace

TokenWindows held_out_windows(const Corpus& corpus, int64_t tokens, int64_t batch) {
  const int64_t length = corpus.window_length(), available = corpus.windows(Split::held_out);
  if (available < 1)
    throw MismatchError(
        fmt::format("the corpus has no held-out window of {} tokens; make it with more held-out documents", length));
  return spread_windows(available, length, tokens, batch,
                        [&](int64_t window, std::span<int64_t> ids) { corpus.read_window(Split::held_out, window, ids); });
}

TokenWindows text_windows(const fs::path& text, const Tokenizer& tokenizer, int64_t length, int64_t tokens, int64_t batch) {
  std::vector<fs::path> files{text};
  if (fs::is_directory(text)) {
    files.clear();
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(text))
      if (entry.is_regular_file()) files.push_back(entry.path());
    std::ranges::sort(files);
  }
  std::vector<int32_t> ids;
  for (const fs::path& file : files) tokenizer.encode(read_file(file), ids);
  const int64_t available = (int64_t(ids.size()) - 1) / length;
  if (available < 1)
    throw FormatError(text, -1,
                      fmt::format("the text has {} tokens, less than one window of {}; use a longer text", ids.size(), length));
  return spread_windows(available, length, tokens, batch, [&](int64_t window, std::span<int64_t> out) {
    std::copy_n(ids.begin() + window * length, length + 1, out.begin());
  });
}

States final_states(const Decoder& model, const TokenWindows& windows, const std::function<void(int64_t)>& step) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  model.hidden(windows.batches[0].narrow(0, 0, 1));  // touches every weight once, so that page faults are not measured
  const Clock::time_point start = Clock::now();
  for (const at::Tensor& batch : windows.batches) {
    throw_if_interrupted();
    parts.push_back(model.hidden(batch));
    if (step) step(batch.numel());
  }
  const double seconds = seconds_since(start);
  return {at::cat(parts), seconds};
}

Divergence compare_states(const Decoder& teacher, const at::Tensor& teacher_hidden, const Decoder& model,
                          const at::Tensor& hidden, const at::Tensor& labels) {
  at::NoGradGuard no_grad;
  Divergence result;
  const int64_t tokens = labels.numel(), chunk = std::max<int64_t>(1, kLogitsPerChunk / model.config().vocab_size);
  double nll = 0, teacher_nll = 0, kl_sum = 0;
  int64_t agree = 0;
  std::vector<double> kl;
  kl.reserve(size_t(tokens));
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    throw_if_interrupted();
    const int64_t count = std::min(chunk, tokens - begin);
    const Clock::time_point start = Clock::now();
    const at::Tensor logits = model.logits(hidden.narrow(0, begin, count));
    result.head_seconds += seconds_since(start);
    const at::Tensor log_q = at::log_softmax(logits, -1);
    const at::Tensor log_p = at::log_softmax(teacher.logits(teacher_hidden.narrow(0, begin, count)), -1);
    const at::Tensor label = labels.narrow(0, begin, count).unsqueeze(1);
    nll -= log_q.gather(1, label).sum(at::kDouble).item<double>();
    teacher_nll -= log_p.gather(1, label).sum(at::kDouble).item<double>();
    agree += log_q.argmax(-1).eq(log_p.argmax(-1)).sum().item<int64_t>();
    // sum_v p (log p - log q)
    const at::Tensor divergence = log_p.exp().mul_(log_p - log_q).sum(-1, false, at::kDouble);
    for (const double value : host_values<double>(divergence)) {
      kl_sum += value;
      kl.push_back(value);
    }
  }
  if (!std::isfinite(kl_sum) || !std::isfinite(nll))
    throw DivergenceError("the logits of the model or of its teacher are not finite, so their divergence is undefined");
  result.perplexity = std::exp(nll / double(tokens));
  result.teacher_perplexity = std::exp(teacher_nll / double(tokens));
  result.kl_mean = kl_sum / double(tokens);
  result.kl_p99 = percentile(kl, 0.99);
  result.top1 = double(agree) / double(tokens);
  return result;
}

}  // namespace overproof
