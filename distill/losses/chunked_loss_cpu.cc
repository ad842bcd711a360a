#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "distill/losses/losses.h"
#include "model/decoder_parts.h"
#include "model/ops/head_loss.h"
#include "model/placement.h"

namespace overproof {
namespace {

/// Of the rows of a chunk; undefined as in DenseRows.
struct ChunkRows {
  at::Tensor weight, drawn, advantage, repeated;
};

/// The targets of all rows. apply() takes the log q of a chunk that begins at row `first`, adds the values of the terms with a
/// teacher, and leaves in its place the gradient in z / T. `keep` is added to the coefficient of q: the share of losses that
/// have the same softmax.
class TeacherRows {
 public:
  virtual ~TeacherRows() = default;
  virtual void apply(int64_t first, at::Tensor& log_q, const ChunkRows& of_chunk, const LossOptions& options, double keep,
                     std::vector<double>& values) = 0;
};

double square(double x) { return x * x; }

class SparseTeacher final : public TeacherRows {
 public:
  SparseTeacher(const SparseRows& targets, int64_t first_target, std::span<const float> row_weight)
      : targets_(targets),
        offsets_(std::span(targets.offsets).subspan(size_t(first_target))),
        tail_(std::span(targets.tail).subspan(size_t(first_target))),
        row_weight_(row_weight) {}

  void apply(int64_t first, at::Tensor& log_q, const ChunkRows& of_chunk, const LossOptions& options, double keep,
             std::vector<double>& values) override {
    if (!has_cpu_kernels(placement_of(log_q))) {  // the rows are in host memory, and so is this loop
      at::Tensor here = log_q.to(Placement{}.options());
      apply(first, here, of_chunk, options, keep, values);
      log_q.copy_(here);
      return;
    }
    const int64_t rows = log_q.size(0), vocab = log_q.size(1);
    const auto offsets = offsets_.subspan(size_t(first), size_t(rows) + 1);
    const int64_t base = offsets[0];
    float* matrix = log_q.mutable_data_ptr<float>();
    logs_.resize(size_t(offsets[size_t(rows)] - base));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = offsets[size_t(r)]; i < offsets[size_t(r) + 1]; ++i) {
        const int32_t id = targets_.ids[size_t(i)];
        OVERPROOF_CHECK(id >= 0 && id < vocab);
        logs_[size_t(i - base)] = matrix[r * vocab + id];
      }
    if (options.gradient) log_q.exp_();
    const size_t terms = options.terms.size();
    std::vector<double> of_rows(size_t(rows) * terms);
    parallel_for(rows, 8, [&](int64_t begin, int64_t end) {
      SparseGradient gradient;
      for (int64_t r = begin; r < end; ++r) {
        const size_t from = size_t(offsets[size_t(r)]), count = size_t(offsets[size_t(r) + 1]) - from;
        const SparseRow row{std::span(targets_.probabilities).subspan(from, count),
                            std::span<const float>(logs_).subspan(from - size_t(base), count), tail_[size_t(first + r)]};
        gradient.rest = gradient.named = 0;
        gradient.at.assign(count, 0.0);
        for (size_t t = 0; t < terms; ++t) {
          const LossTerm& term = options.terms[t];
          if (!term.loss->sparse) continue;
          // d (T^2 f(z / T)) / d z = T f'(z / T)
          const double value = term.loss->sparse(row, {term.weight * options.temperature, term.parameter},
                                                 options.gradient ? &gradient : nullptr);
          of_rows[size_t(r) * terms + t] = row_weight_.empty() ? value : double(row_weight_[size_t(first + r)]) * value;
        }
        if (!options.gradient) continue;
        float* q = matrix + r * vocab;
        const float factor = float(gradient.rest + keep);
        if (factor != 1.0f)
          for (int64_t v = 0; v < vocab; ++v) q[v] *= factor;
        for (size_t i = 0; i < count; ++i)
          q[targets_.ids[from + i]] = float((gradient.named + keep) * std::exp(double(row.log_q[i])) + gradient.at[i]);
      }
    });
    for (size_t t = 0; t < terms; ++t) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += of_rows[size_t(r) * terms + t];
      if (options.terms[t].loss->sparse) values[t] += square(options.temperature) * sum;
    }
  }

 private:
  const SparseRows& targets_;
  std::span<const int64_t> offsets_;          // from the first row on
  std::span<const float> tail_, row_weight_;  // the same
  std::vector<float> logs_;
};

class DenseTeacher final : public TeacherRows {
 public:
  DenseTeacher(const Targets& targets, int64_t first_target, int64_t vocab)
      : targets_(targets), first_target_(first_target), vocab_(vocab) {}

  void apply(int64_t first, at::Tensor& log_q, const ChunkRows& of_chunk, const LossOptions& options, double keep,
             std::vector<double>& values) override {
    const auto [log_p, p] = probabilities(first_target_ + first, log_q.size(0), options.temperature);
    DenseGradient gradient;
    for (size_t t = 0; t < options.terms.size(); ++t) {
      const LossTerm& term = options.terms[t];
      if (!term.loss->dense) continue;
      values[t] += square(options.temperature) * term.loss->dense({log_q, log_p, p, of_chunk.weight, of_chunk.drawn, of_chunk.advantage, of_chunk.repeated},
                                                                  {term.weight * options.temperature, term.parameter},
                                                                  options.gradient ? &gradient : nullptr);
    }
    if (!options.gradient) return;
    log_q.exp_().mul_(gradient.q + keep).add_(p, gradient.p);
    if (gradient.other.defined()) log_q.add_(gradient.other);
  }

 private:
  /// log p and p of the mixture. Its logarithm is finite where p underflows: losses multiply the two.
  std::pair<at::Tensor, at::Tensor> probabilities(int64_t first, int64_t rows, double temperature) const {
    at::Tensor log_p, p;
    for (const DenseStates& states : targets_.states) {
      at::Tensor logits = capped(ops::logits(states.hidden.narrow(0, first, rows), states.head.narrow(0, 0, vocab_)), states.cap);
      if (temperature != 1.0) logits.div_(temperature);
      at::Tensor log_part = at::log_softmax(logits, 1);
      if (states.weight != 1.0) log_part.add_(std::log(states.weight));
      log_p = log_p.defined() ? at::logaddexp(log_p, log_part) : log_part;
      p = std::move(logits);  // its memory
    }
    at::exp_out(p, log_p);
    if (targets_.sparse.rows() > 0) add_sparse(first, rows, log_p, p);
    return {log_p, p};
  }

  void add_sparse(int64_t first, int64_t rows, at::Tensor& log_p, at::Tensor& p) const {
    const SparseRows& sparse = targets_.sparse;
    const auto begin = sparse.offsets[size_t(first)], end = sparse.offsets[size_t(first + rows)];
    std::vector<int64_t> places;  // in the flattened chunk
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = sparse.offsets[size_t(first + r)]; i < sparse.offsets[size_t(first + r) + 1]; ++i) {
        const int32_t id = sparse.ids[size_t(i)];
        OVERPROOF_CHECK(id >= 0 && id < p.size(1));
        places.push_back(r * p.size(1) + id);
      }
    const at::Tensor index = at::tensor(places, at::kLong).to(p.device());
    const at::ArrayRef<float> values(sparse.probabilities.data() + begin, size_t(end - begin));
    p.view(-1).index_add_(0, index, at::tensor(values, at::kFloat).to(p.device()));
    log_p.view(-1).index_copy_(0, index, p.view(-1).index_select(0, index).log_());
  }

  const Targets& targets_;
  int64_t first_target_, vocab_;
};

LossSums loss_of_chunks(const at::Tensor& hidden_in, const at::Tensor& head, TeacherRows& teacher, const RowLabels& rows_in,
                        const LossOptions& options, ops::LogitsChunks chunks, at::Tensor* d_hidden, at::Tensor* d_head) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = hidden_in.detach().contiguous();
  const int64_t tokens = hidden.size(0), vocab = head.size(0), chunk = std::min(tokens, chunks.loss);
  const double temperature = options.temperature;
  const bool one_softmax = temperature == 1.0;  // then losses at temperature 1 and at T share it, and the second costs nothing
  const bool with_labels = std::ranges::any_of(options.terms, [](const LossTerm& t) { return t.loss->labels != nullptr; });
  const bool drawn = !rows_in.advantage.empty() && std::ranges::any_of(options.terms, [](const LossTerm& t) { return t.loss->drawn; });
  OVERPROOF_CHECK((!with_labels && !drawn) || int64_t(rows_in.labels.size()) == tokens);
  OVERPROOF_CHECK(rows_in.advantage.empty() || int64_t(rows_in.advantage.size()) == tokens);
  OVERPROOF_CHECK(rows_in.repeated.empty() || int64_t(rows_in.repeated.size()) == tokens);
  OVERPROOF_CHECK(!drawn || one_softmax);
  OVERPROOF_CHECK(rows_in.weight.empty() || int64_t(rows_in.weight.size()) == tokens);
  OVERPROOF_CHECK(!options.gradient || d_hidden != nullptr);
  if (options.gradient) *d_hidden = at::empty_like(hidden);
  at::Tensor log_q_buffer;

  LossSums sums;
  sums.values.resize(options.terms.size());
  const auto loss_of_chunk = [&](int64_t first, at::Tensor& z) -> at::Tensor {
    const int64_t rows = z.size(0);
    if (!log_q_buffer.defined()) log_q_buffer = at::empty({chunk, vocab}, z.options());
    at::Tensor log_q = log_q_buffer.narrow(0, 0, rows);
    ChunkRows of_chunk;
    at::Tensor& weight = of_chunk.weight;
    if (!rows_in.weight.empty())
      weight =
          at::tensor(at::ArrayRef<float>(rows_in.weight.data() + first, size_t(rows)), at::kFloat).to(z.device(), at::kDouble);
    sums.weight += weight.defined() ? weight.sum().item<double>() : double(rows);

    at::Tensor label, label_q;  // label_q: q at temperature 1 where that is another one
    LabelGradient of_labels;
    const auto compare_labels = [&](const at::Tensor& log_q1) {
      const at::Tensor at_label = log_q1.gather(1, label);
      for (size_t t = 0; t < options.terms.size(); ++t)
        if (const LossTerm& term = options.terms[t]; term.loss->labels)
          sums.values[t] += term.loss->labels({at_label, weight}, {term.weight, term.parameter}, &of_labels);
    };
    if (with_labels || drawn)
      label = at::tensor(at::ArrayRef<int64_t>(rows_in.labels.data() + first, size_t(rows))).unsqueeze(1).to(z.device());
    if (drawn) {
      of_chunk.drawn = label;
      const auto column = [&](std::span<const float> of_rows) {
        return at::tensor(at::ArrayRef<float>(of_rows.data() + first, size_t(rows)), at::kFloat).unsqueeze(1).to(z.device());
      };
      of_chunk.advantage = column(rows_in.advantage);
      if (!rows_in.repeated.empty()) of_chunk.repeated = column(rows_in.repeated);
    }
    if (with_labels && !one_softmax) {
      label_q = at::log_softmax(z, 1);
      compare_labels(label_q);
      if (options.gradient) label_q.exp_();
    }
    if (!one_softmax) z.div_(temperature);
    at::log_softmax_out(log_q, z, 1);
    if (with_labels && one_softmax) compare_labels(log_q);

    at::Tensor& gradient = log_q;  // apply() turns one into the other
    teacher.apply(first, log_q, of_chunk, options, one_softmax ? of_labels.q : 0.0, sums.values);
    if (!options.gradient) return {};
    if (of_labels.q != 0 && !one_softmax) gradient.add_(label_q, of_labels.q);
    if (of_labels.label != 0) gradient.scatter_add_(1, label, at::full({rows, 1}, of_labels.label, z.options()));
    if (weight.defined()) gradient.mul_(weight.to(gradient.scalar_type()).unsqueeze(1));
    return gradient;
  };
  if (!options.gradient) {
    ops::head_loss(hidden, head, chunks, loss_of_chunk, nullptr);
    return sums;
  }
  ops::HeadGradients gradients{*d_hidden, d_head ? *d_head : at::Tensor(), options.grad_scale};
  ops::head_loss(hidden, head, chunks, loss_of_chunk, &gradients);
  return sums;
}

}  // namespace

LossSums chunked_loss(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets, int64_t first_target,
                      const RowLabels& rows, const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  require_targets(options.terms, targets.kind);
  const int64_t end = first_target + hidden.size(0);
  OVERPROOF_CHECK(targets.states.empty() ? end <= targets.sparse.rows()
                                         : targets.sparse.rows() == 0 || end <= targets.sparse.rows());
  for (const DenseStates& states : targets.states)
    OVERPROOF_CHECK(end <= states.hidden.size(0) && states.head.size(0) >= head.size(0));
  if (targets.states.empty()) {
    SparseTeacher teacher(targets.sparse, first_target, rows.weight);
    return loss_of_chunks(hidden, head, teacher, rows, options, ops::logits_chunks(head.size(0)), d_hidden, d_head);
  }
  DenseTeacher teacher(targets, first_target, head.size(0));
  // The teacher's logits are products too, and its buffers three more.
  const int64_t chunk = std::max<int64_t>(ops::logits_chunks(head.size(0)).product / 2, 1);
  return loss_of_chunks(hidden, head, teacher, rows, options, {chunk, chunk}, d_hidden, d_head);
}

}  // namespace overproof
