#include "evaluate/compare.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "data/token_batch.h"
#include "model/host_values.h"
#include "model/torch_setup.h"

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

/// Expected calibration error, from the largest probability of each token and whether its label is that token.
class CalibrationError {
 public:
  void add(double confidence, bool right) {
    Bin& bin = bins_[size_t(std::clamp<int64_t>(int64_t(std::ceil(confidence * kBins)) - 1, 0, kBins - 1))];  // (i / kBins, (i + 1) / kBins]
    bin.confidence += confidence;
    bin.right += right;
    ++tokens_;
  }
  double value() const {
    double sum = 0;
    for (const Bin& bin : bins_) sum += std::abs(bin.right - bin.confidence);
    return sum / double(std::max<int64_t>(1, tokens_));
  }

 private:
  static constexpr int64_t kBins = 15;
  struct Bin {
    double confidence = 0, right = 0;
  };
  std::array<Bin, kBins> bins_;
  int64_t tokens_ = 0;
};

constexpr size_t kMostSources = 4;

/// The kinds of a corpus's held-out documents, as held_out_windows() defines them.
class KindsOfText {
 public:
  explicit KindsOfText(const Corpus& corpus) {
    std::set<std::string> sources;
    for (const Document& d : corpus.documents())
      if (d.split == Split::held_out) sources.insert(d.source);
    by_source_ = sources.size() <= kMostSources;
    std::set<std::string> names;
    for (const Document& d : corpus.documents())
      if (d.split == Split::held_out) names.insert(name(d));
    names_.assign(names.begin(), names.end());
  }
  const std::vector<std::string>& names() const { return names_; }
  size_t of(const Document& d) const { return size_t(std::ranges::lower_bound(names_, name(d)) - names_.begin()); }

 private:
  std::string name(const Document& d) const { return by_source_ || d.license_rule == kSampledRule ? d.source : "other"; }
  bool by_source_ = false;
  std::vector<std::string> names_;
};

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
  std::vector<int64_t> positions;  // of the labels, in the held-out stream
  std::vector<int64_t> taken;      // windows
  TokenWindows result = spread_windows(available, length, tokens, batch, [&](int64_t window, std::span<int64_t> ids) {
    corpus.read_window(Split::held_out, window, ids);
    taken.push_back(window);
    for (int64_t i = 1; i <= length; ++i) positions.push_back(window * length + i);
  });
  if (corpus.document_attention()) {
    size_t next = 0;
    for (const at::Tensor& rows : result.batches) {
      std::vector<int32_t> segments(size_t(rows.numel()));
      for (int64_t r = 0; r < rows.size(0); ++r)
        read_segments(corpus, Split::held_out, taken[next++], std::span(segments).subspan(size_t(r * length), size_t(length)));
      result.segments.push_back(at::tensor(segments, at::kInt).view(rows.sizes()));
    }
  }
  if (corpus.has_mask()) {
    std::vector<float> mask(static_cast<size_t>(length));
    std::vector<int64_t> counted, kept;
    for (size_t w = 0; w < taken.size(); ++w) {
      corpus.read_mask(Split::held_out, taken[w], mask);
      for (size_t i = 0; i < mask.size(); ++i)
        if (mask[i] > 0) counted.push_back(int64_t(w * mask.size() + i)), kept.push_back(positions[w * mask.size() + i]);
    }
    if (counted.empty())
      throw MismatchError("no token of the held-out windows is trained: the corpus masks all of them; evaluate more tokens");
    result.counted = at::tensor(counted, at::kLong);
    result.labels = result.labels.index_select(0, result.counted);
    positions = std::move(kept);
  }
  const KindsOfText kinds(corpus);
  if (kinds.names().size() < 2) return result;
  result.kinds = kinds.names();
  for (const int64_t position : positions)
    result.kind.push_back(int32_t(kinds.of(corpus.document_at(Split::held_out, position))));
  return result;
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
  const KeepFreedMemory keep_freed_memory;
  std::vector<at::Tensor> parts;
  model.hidden(windows.batches[0].narrow(0, 0, 1));  // touches every weight once, so that page faults are not measured
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < windows.batches.size(); ++i) {
    throw_if_interrupted();
    ForwardOptions options;
    if (!windows.segments.empty()) options.segments = windows.segments[i];
    parts.push_back(model.hidden(windows.batches[i], options));
    if (step) step(windows.batches[i].numel());
  }
  const double seconds = seconds_since(start);
  const at::Tensor all = at::cat(parts);
  return {windows.counted.defined() ? all.index_select(0, windows.counted) : all, seconds};
}

Divergence compare_states(const Decoder& teacher, const at::Tensor& teacher_hidden, const Decoder& model,
                          const at::Tensor& hidden, const TokenWindows& windows) {
  at::NoGradGuard no_grad;
  const KeepFreedMemory keep_freed_memory;
  Divergence result;
  result.kinds.resize(windows.kinds.size());
  const at::Tensor& labels = windows.labels;
  const int64_t tokens = labels.numel(), chunk = std::max<int64_t>(1, kLogitsPerChunk / model.config().vocab_size);
  double nll = 0, teacher_nll = 0, kl_sum = 0;
  int64_t agree = 0;
  CalibrationError calibration;
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
    const auto [most, most_probable] = log_q.max(-1);
    const at::Tensor of_label = log_q.gather(1, label).to(at::kDouble), same = most_probable.eq(log_p.argmax(-1)).to(at::kInt);
    const at::Tensor confidence = most.to(at::kDouble).exp_(), right = most_probable.eq(label.squeeze(1)).to(at::kInt);
    nll -= of_label.sum().item<double>();
    teacher_nll -= log_p.gather(1, label).sum(at::kDouble).item<double>();
    agree += same.sum().item<int64_t>();
    // sum_v p (log p - log q)
    const at::Tensor divergence = log_p.exp().mul_(log_p - log_q).sum(-1, false, at::kDouble);
    const auto divergences = host_values<double>(divergence), label_values = host_values<double>(of_label);
    const auto agreements = host_values<int32_t>(same), rights = host_values<int32_t>(right);
    const auto confidences = host_values<double>(confidence);
    for (size_t i = 0; i < divergences.size(); ++i) {
      kl_sum += divergences[i];
      kl.push_back(divergences[i]);
      calibration.add(confidences[i], rights[i] != 0);
      if (windows.kind.empty()) continue;
      KindDivergence& kind = result.kinds[size_t(windows.kind[size_t(begin) + i])];
      ++kind.tokens;
      kind.kl_mean += divergences[i];  // sums, until all are there
      kind.perplexity -= label_values[i];
      kind.top1 += agreements[i];
    }
  }
  if (!std::isfinite(kl_sum) || !std::isfinite(nll))
    throw DivergenceError("the logits of the model or of its teacher are not finite, so their divergence is undefined");
  result.perplexity = std::exp(nll / double(tokens));
  result.teacher_perplexity = std::exp(teacher_nll / double(tokens));
  if (!std::isfinite(result.perplexity) || !std::isfinite(result.teacher_perplexity))
    throw DivergenceError(
        "the logits of the model or of its teacher are so large that the perplexity is not finite; there is nothing to compare");
  result.kl_mean = kl_sum / double(tokens);
  result.kl_p99 = percentile(kl, 0.99);
  result.top1 = double(agree) / double(tokens);
  result.calibration_error = calibration.value();
  for (KindDivergence& kind : result.kinds) {
    const auto count = double(std::max<int64_t>(1, kind.tokens));
    kind.kl_mean /= count;
    kind.perplexity = std::exp(kind.perplexity / count);
    kind.top1 /= count;
  }
  return result;
}

}  // namespace overproof
