#include "distill/loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"

namespace overproof {
namespace {

// How the gradient in z is put together: kl x (d kl / d(z/T)) + keep x q. At temperature 1 both losses share one softmax,
// so the cross-entropy's own q comes with `keep` and costs nothing.
struct Mix {
  double kl, keep;
};

// One sparse row. On entry `q` is the student's distribution and log_q its logarithm at the row's ids; on return `q` is
// the gradient. q may be null when only the value is wanted. Returns the KL.
double sparse_row(float* q, int64_t vocab, std::span<const int32_t> ids, std::span<const float> p, std::span<const float> log_q,
                  double tail, Mix mix) {
  double kl = 0, covered = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (p[i] > 0) kl += double(p[i]) * (std::log(double(p[i])) - double(log_q[i]));
    covered += std::exp(double(log_q[i]));
  }
  double outside = 1;  // factor of q where the teacher named no id
  if (tail > 0) {
    // A student that has put everything on the named ids would have an infinite KL; one float ulp of mass keeps it finite.
    const double rest = std::max(1 - covered, 0x1p-24);
    kl += tail * (std::log(tail) - std::log(rest));
    outside = 1 - tail / rest;
  }
  if (q == nullptr) return kl;
  const float factor = float(mix.kl * outside + mix.keep);
  if (factor != 1.0f)
    for (int64_t v = 0; v < vocab; ++v) q[v] *= factor;
  for (size_t i = 0; i < ids.size(); ++i)
    q[ids[i]] = float((mix.kl + mix.keep) * std::exp(double(log_q[i])) - mix.kl * double(p[i]));
  return kl;
}

// The teacher of a chunk: takes log q [rows, vocab], leaves the gradient in its place, returns the KL's sum at T = 1 scale.
class Teacher {
 public:
  virtual ~Teacher() = default;
  virtual double apply(int64_t first, at::Tensor& log_q, Mix mix, bool gradient) = 0;
};

class SparseTeacher final : public Teacher {
 public:
  explicit SparseTeacher(const SparseTargets& targets) : targets_(targets) {}

  double apply(int64_t first, at::Tensor& log_q, Mix mix, bool gradient) override {
    const int64_t rows = log_q.size(0), vocab = log_q.size(1);
    const auto offsets = targets_.offsets.subspan(size_t(first), size_t(rows) + 1);
    const int64_t base = offsets[0];
    float* values = log_q.mutable_data_ptr<float>();
    logs_.resize(size_t(offsets[size_t(rows)] - base));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = offsets[size_t(r)]; i < offsets[size_t(r) + 1]; ++i) {
        const int32_t id = targets_.ids[size_t(i)];
        OVERPROOF_CHECK(id >= 0 && id < vocab);
        logs_[size_t(i - base)] = values[r * vocab + id];
      }
    if (gradient) log_q.exp_();
    std::vector<double> kl(static_cast<size_t>(rows));
    parallel_for(rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const size_t from = size_t(offsets[size_t(r)]), count = size_t(offsets[size_t(r) + 1]) - from;
        const std::span<const float> logs(logs_.data() + (from - size_t(base)), count);
        kl[size_t(r)] = sparse_row(gradient ? values + r * vocab : nullptr, vocab, targets_.ids.subspan(from, count),
                                   targets_.probabilities.subspan(from, count), logs, targets_.tail[size_t(first + r)], mix);
      }
    });
    double sum = 0;
    for (const double k : kl) sum += k;
    return sum;
  }

 private:
  SparseTargets targets_;
  std::vector<float> logs_;
};

class DenseTeacher final : public Teacher {
 public:
  DenseTeacher(const at::Tensor& hidden, const at::Tensor& head, double temperature)
      : hidden_(hidden), head_(head), temperature_(temperature) {}

  double apply(int64_t first, at::Tensor& log_q, Mix mix, bool gradient) override {
    at::Tensor logits = at::mm(hidden_.narrow(0, first, log_q.size(0)), head_.t());
    if (temperature_ != 1.0) logits.div_(temperature_);
    const at::Tensor log_p = at::log_softmax(logits, 1);
    at::exp_out(logits, log_p);  // now p
    const double kl = at::sub(log_p, log_q).mul_(logits).sum(at::kDouble).item<double>();
    if (gradient) log_q.exp_().mul_(mix.kl + mix.keep).sub_(logits, mix.kl);
    return kl;
  }

 private:
  at::Tensor hidden_, head_;
  double temperature_;
};

LossSums chunked_loss(const at::Tensor& hidden_in, const at::Tensor& head, Teacher& teacher, std::span<const int64_t> labels,
                      const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = hidden_in.detach().contiguous();
  const int64_t tokens = hidden.size(0), vocab = head.size(0),
                chunk = std::max<int64_t>(1, std::min(tokens, loss_chunk_rows(vocab)));
  const double temperature = options.temperature, w = options.ce_weight;
  const bool has_labels = !labels.empty(), one_softmax = temperature == 1.0;
  OVERPROOF_CHECK(has_labels ? int64_t(labels.size()) == tokens : w == 0.0);
  OVERPROOF_CHECK(!options.gradient || d_hidden != nullptr);
  // d kl / d z = T^2 (d kl / d(z/T)) / T
  const Mix mix{(1 - w) * temperature, one_softmax ? w : 0.0};
  if (options.gradient) *d_hidden = at::empty_like(hidden);
  at::Tensor logits_buffer = at::empty({chunk, vocab}, hidden.options()), log_q_buffer = at::empty_like(logits_buffer);

  LossSums sums;
  sums.tokens = tokens;
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    const at::Tensor part = hidden.narrow(0, first, rows);
    at::Tensor z = logits_buffer.narrow(0, 0, rows), log_q = log_q_buffer.narrow(0, 0, rows);
    at::mm_out(z, part, head.t());

    at::Tensor label, ce_gradient;
    if (has_labels) label = at::tensor(at::ArrayRef<int64_t>(labels.data() + first, size_t(rows))).unsqueeze(1);
    if (has_labels && !one_softmax) {
      ce_gradient = at::log_softmax(z, 1);
      sums.ce -= ce_gradient.gather(1, label).sum(at::kDouble).item<double>();
      if (options.gradient) ce_gradient.exp_();
    }
    if (!one_softmax) z.div_(temperature);
    at::log_softmax_out(log_q, z, 1);
    if (has_labels && one_softmax) sums.ce -= log_q.gather(1, label).sum(at::kDouble).item<double>();

    at::Tensor& gradient = log_q;  // the teacher turns one into the other
    sums.kl += temperature * temperature * teacher.apply(first, log_q, mix, options.gradient);
    if (!options.gradient) continue;
    if (w > 0) {
      if (!one_softmax) gradient.add_(ce_gradient, w);
      gradient.scatter_add_(1, label, at::full({rows, 1}, -w, hidden.options()));
    }
    at::Tensor out = d_hidden->narrow(0, first, rows);
    at::mm_out(out, gradient, head);
    out.mul_(options.grad_scale);
    if (d_head) d_head->addmm_(gradient.t(), part, 1.0, options.grad_scale);
  }
  return sums;
}

}  // namespace

LossSums& LossSums::operator+=(const LossSums& other) {
  kl += other.kl;
  ce += other.ce;
  tokens += other.tokens;
  return *this;
}

LossSums sparse_loss(const at::Tensor& hidden, const at::Tensor& head, const SparseTargets& targets,
                     std::span<const int64_t> labels, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  OVERPROOF_CHECK(int64_t(targets.offsets.size()) == hidden.size(0) + 1 && int64_t(targets.tail.size()) == hidden.size(0));
  SparseTeacher teacher(targets);
  return chunked_loss(hidden, head, teacher, labels, options, d_hidden, d_head);
}

LossSums dense_loss(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& teacher_hidden,
                    const at::Tensor& teacher_head, std::span<const int64_t> labels, const LossOptions& options,
                    at::Tensor* d_hidden, at::Tensor* d_head) {
  OVERPROOF_CHECK(teacher_hidden.size(0) == hidden.size(0) && teacher_head.size(0) == head.size(0));
  DenseTeacher teacher(teacher_hidden, teacher_head, options.temperature);
  return chunked_loss(hidden, head, teacher, labels, options, d_hidden, d_head);
}

int64_t loss_chunk_rows(int64_t vocab_size) {
  constexpr int64_t kBufferElements = int64_t{4} << 20;
  return std::clamp<int64_t>(kBufferElements / std::max<int64_t>(vocab_size, 1), 16, 1024);
}

}  // namespace overproof
