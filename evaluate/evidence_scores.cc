#include "evaluate/evidence_scores.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/interrupt.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// f32 logits at a time: 32 MiB, whatever the vocabulary.
int64_t chunk_rows(const Decoder& model) { return std::max<int64_t>(1, (int64_t{8} << 20) / model.config().vocab_size); }

void append_means(const at::Tensor& per_token, int64_t length, std::vector<double>& out) {
  const at::Tensor means = per_token.view({-1, length}).mean(1).contiguous();
  const std::span<const double> values = host_values<double>(means);
  out.insert(out.end(), values.begin(), values.end());
}

}  // namespace

at::Tensor read_windows(const Corpus& corpus, Split split, const std::vector<int64_t>& windows) {
  const int64_t width = corpus.window_length() + 1;
  const at::Tensor ids = at::empty({int64_t(windows.size()), width}, at::kLong);
  const std::span<int64_t> values = mutable_host_values<int64_t>(ids);
  for (size_t w = 0; w < windows.size(); ++w)
    corpus.read_window(split, windows[w], values.subspan(w * size_t(width), size_t(width)));
  return ids;
}

std::vector<WindowScores> score_windows(const Decoder* teacher, const std::vector<const Decoder*>& models,
                                        const at::Tensor& windows, int64_t batch, const std::function<void(int64_t)>& step) {
  at::NoGradGuard no_grad;
  std::vector<WindowScores> scores(models.size() + (teacher ? 1 : 0));
  const int64_t length = windows.size(1) - 1;
  for (int64_t w = 0; w < windows.size(0); w += batch) {
    throw_if_interrupted();
    const at::Tensor part = windows.narrow(0, w, std::min(batch, windows.size(0) - w));
    const at::Tensor tokens = part.narrow(1, 0, length).contiguous(), labels = part.narrow(1, 1, length).reshape({-1, 1});
    const int64_t rows = labels.size(0);
    const at::Tensor teacher_hidden = teacher ? teacher->hidden(tokens) : at::Tensor();
    for (size_t m = 0; m < scores.size(); ++m) {
      const bool itself = m == models.size();  // the teacher: p log p instead of p (log p - log q)
      const Decoder& model = itself ? *teacher : *models[m];
      const at::Tensor hidden = itself ? teacher_hidden : model.hidden(tokens);
      at::Tensor loss = at::empty({rows}, at::kDouble), kl = at::empty({teacher ? rows : 0}, at::kDouble);
      const int64_t chunk = chunk_rows(model);
      for (int64_t r = 0; r < rows; r += chunk) {
        const int64_t count = std::min(chunk, rows - r);
        const at::Tensor log_q = at::log_softmax(model.logits(hidden.narrow(0, r, count)), -1);
        loss.narrow(0, r, count).copy_(log_q.gather(1, labels.narrow(0, r, count)).neg().squeeze(1));
        if (!teacher) continue;
        const at::Tensor log_p = at::log_softmax(teacher->logits(teacher_hidden.narrow(0, r, count)), -1);
        kl.narrow(0, r, count).copy_(log_p.exp().mul_(itself ? -log_p : log_p - log_q).sum(-1, false, at::kDouble));
      }
      append_means(loss, length, scores[m].loss);
      if (teacher) append_means(kl, length, scores[m].kl);
    }
    if (step) step(w + part.size(0));
  }
  return scores;
}

at::Tensor predict_tokens(const Decoder& model, const at::Tensor& tokens) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = model.hidden(tokens);
  at::Tensor best = at::empty({hidden.size(0)}, at::kLong);
  const int64_t chunk = chunk_rows(model);
  for (int64_t r = 0; r < hidden.size(0); r += chunk) {
    const int64_t count = std::min(chunk, hidden.size(0) - r);
    best.narrow(0, r, count).copy_(model.logits(hidden.narrow(0, r, count)).argmax(-1));
  }
  return best.view_as(tokens);
}

std::vector<int32_t> predict_last(const Decoder& model, const at::Tensor& windows, int64_t batch,
                                  const std::function<void(int64_t)>& step) {
  at::NoGradGuard no_grad;
  std::vector<int32_t> out;
  const int64_t length = windows.size(1);
  for (int64_t w = 0; w < windows.size(0); w += batch) {
    throw_if_interrupted();
    const int64_t count = std::min(batch, windows.size(0) - w);
    const at::Tensor hidden =
        model.hidden(windows.narrow(0, w, count).contiguous()).view({count, length, -1}).select(1, length - 1);
    const at::Tensor best = model.logits(hidden.contiguous()).argmax(-1).contiguous();
    for (const int64_t id : host_values<int64_t>(best)) out.push_back(int32_t(id));
    if (step) step(w + count);
  }
  return out;
}

}  // namespace overproof
