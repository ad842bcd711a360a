#include "distill/losses/aligned.h"

#include <ATen/ATen.h>
#include <ATen/TensorIndexing.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/decoder_parts.h"
#include "model/host_values.h"
#include "model/ops/head_loss.h"

namespace overproof {
namespace {

constexpr double kLeastRest = 0x1p-24;  // one float ulp of mass is what rounding can hide: it keeps logarithms finite

at::Tensor index_of(const std::vector<int64_t>& list, const at::Tensor& like) { return at::tensor(list, at::kLong).to(like.device()); }

/// For rows of `hidden`, the log-probability of `labels`; in chunks.
std::vector<double> label_logs(const at::Tensor& hidden, const at::Tensor& head, double cap, const std::vector<int64_t>& rows, const std::vector<int64_t>& labels) {
  std::vector<double> logs;
  const auto chunk = size_t(ops::logits_chunks(head.size(0)).product);
  for (size_t first = 0; first < rows.size(); first += chunk) {
    const size_t count = std::min(chunk, rows.size() - first);
    const auto part = [&](const std::vector<int64_t>& list) {
      return at::tensor(at::ArrayRef<int64_t>(list.data() + first, count), at::kLong).to(hidden.device());
    };
    const at::Tensor z = capped(ops::logits(hidden.index_select(0, part(rows)), head), cap);
    const at::Tensor log = (z.gather(1, part(labels).unsqueeze(1)).squeeze(1) - at::logsumexp(z, 1)).to(at::kCPU, at::kDouble);
    for (const double value : host_values<double>(log)) logs.push_back(value);
  }
  return logs;
}

/// What is known of a span before the logits of its first row are.
struct SpanFacts {
  int64_t row = 0, teacher_row = 0;  // first ones
  int64_t s1 = 0, t1 = 0;            // first labels
  double log_q_rest = 0, log_p_rest = 0;  // of the labels after the first
  int64_t rows = 1;                  // of the student
  double weight = 1;
  bool in_common = false;            // it is a pair of ids of one tokenizer each
  double d_log_q = 0;                // slope of the loss in the log-probability of each of its labels, once the first row was seen
};

class AlignedLoss {
 public:
  AlignedLoss(const at::Tensor& hidden, const at::Tensor& head, const AlignedStates& states, const RowLabels& rows, const LossOptions& options)
      : head_(head), states_(states), rows_(rows), options_(options), vocab_(head.size(0)), its_vocab_(states.head.size(0)) {
    std::vector<int64_t> ours, theirs;
    pair_of_.assign(size_t(vocab_), -1);
    its_pair_of_.assign(size_t(its_vocab_), -1);
    for (const auto& [a, b] : *states.common) {
      if (a >= vocab_ || b >= its_vocab_) continue;
      pair_of_[size_t(a)] = its_pair_of_[size_t(b)] = int64_t(ours.size());
      ours.push_back(a);
      theirs.push_back(b);
    }
    common_ = index_of(ours, hidden), its_common_ = index_of(theirs, hidden);
    others_ = index_of(without(pair_of_), hidden), its_others_ = index_of(without(its_pair_of_), hidden);
    for (const LossTerm& term : options.terms) {
      with_kl_ |= term.loss == &kMergedKl;
      with_universal_ |= term.loss == &kUniversal;
      with_labels_ |= term.loss->labels != nullptr;
    }
    read_spans(hidden);
  }

  /// The gradient of a chunk of logits.
  at::Tensor chunk(int64_t first, at::Tensor& z, LossSums& sums) {
    const int64_t count = z.size(0);
    at::Tensor log_q = at::log_softmax(z, 1);
    std::vector<double> q_factor(size_t(count), 0.0), at_label(size_t(count), 0.0);  // gradient: q_factor x q, and at the label
    for (int64_t r = 0; r < count; ++r) sums.weight += weight_of(first + r);
    compare_labels(first, log_q, q_factor, at_label, sums);
    std::vector<SpanFacts*> here;
    while (next_ < spans_.size() && spans_[next_].row < first + count) here.push_back(&spans_[next_++]);
    at::Tensor more;  // gradient beyond multiples of q
    if (!here.empty() && (with_kl_ || with_universal_)) compare_spans(first, log_q, here, q_factor, at_label, more, sums);
    if (!options_.gradient) return {};
    // The later rows of spans, whose first row is in this chunk or in one before.
    for (int64_t r = 0; r < count; ++r)
      if (const int64_t s = span_of_later_row_[size_t(first + r)]; s >= 0) {
        q_factor[size_t(r)] -= spans_[size_t(s)].d_log_q;
        at_label[size_t(r)] += spans_[size_t(s)].d_log_q;
      }
    at::Tensor gradient = log_q.exp_();
    gradient.mul_(column(q_factor, gradient));
    if (more.defined()) gradient.add_(more);
    if (std::ranges::any_of(at_label, [](double x) { return x != 0; }))
      gradient.scatter_add_(1, labels_of(first, count, gradient), column(at_label, gradient));
    return gradient;
  }

 private:
  static std::vector<int64_t> without(const std::vector<int64_t>& pair_of) {
    std::vector<int64_t> list;
    for (size_t id = 0; id < pair_of.size(); ++id)
      if (pair_of[id] < 0) list.push_back(int64_t(id));
    return list;
  }
  static at::Tensor column(const std::vector<double>& values, const at::Tensor& like) {
    return at::tensor(values, at::kDouble).to(like.options()).unsqueeze(1);
  }
  double weight_of(int64_t row) const { return rows_.weight.empty() ? 1.0 : double(rows_.weight[size_t(row)]); }
  at::Tensor labels_of(int64_t first, int64_t count, const at::Tensor& like) const {
    return at::tensor(at::ArrayRef<int64_t>(rows_.labels.data() + first, size_t(count)), at::kLong).to(like.device()).unsqueeze(1);
  }

  void read_spans(const at::Tensor& hidden) {
    std::vector<int64_t> later, later_labels, its_later, its_later_labels;
    span_of_later_row_.assign(size_t(hidden.size(0)), -1);
    for (const TokenSpan& span : states_.spans) {
      OVERPROOF_CHECK(span.a_begin < span.a_end && span.b_begin < span.b_end && span.a_end <= hidden.size(0) &&
                      span.b_end <= int64_t(states_.labels.size()));
      SpanFacts facts{.row = span.a_begin, .teacher_row = span.b_begin, .s1 = rows_.labels[size_t(span.a_begin)],
                      .t1 = states_.labels[size_t(span.b_begin)], .rows = span.a_end - span.a_begin};
      facts.weight = weight_of(span.a_begin);
      for (int64_t r = span.a_begin + 1; r < span.a_end; ++r) {
        facts.weight = std::min(facts.weight, weight_of(r));
        span_of_later_row_[size_t(r)] = int64_t(spans_.size());
        later.push_back(r);
        later_labels.push_back(rows_.labels[size_t(r)]);
      }
      for (int64_t r = span.b_begin + 1; r < span.b_end; ++r) its_later.push_back(r), its_later_labels.push_back(states_.labels[size_t(r)]);
      OVERPROOF_CHECK(facts.s1 < vocab_ && facts.t1 < its_vocab_);
      const int64_t pair = pair_of_[size_t(facts.s1)];
      facts.in_common = facts.rows == 1 && span.b_end - span.b_begin == 1 && pair >= 0 && pair == its_pair_of_[size_t(facts.t1)];
      spans_.push_back(facts);
    }
    if (!with_kl_) return;
    const std::vector<double> logs = label_logs(hidden, head_, 0, later, later_labels),
                              its_logs = label_logs(states_.hidden, states_.head, states_.cap, its_later, its_later_labels);
    size_t next = 0, its_next = 0;
    for (size_t s = 0; s < spans_.size(); ++s) {
      const TokenSpan& span = states_.spans[s];
      for (int64_t k = span.a_begin + 1; k < span.a_end; ++k) spans_[s].log_q_rest += logs[next++];
      for (int64_t k = span.b_begin + 1; k < span.b_end; ++k) spans_[s].log_p_rest += its_logs[its_next++];
    }
  }

  void compare_labels(int64_t first, const at::Tensor& log_q, std::vector<double>& q_factor, std::vector<double>& at_label, LossSums& sums) const {
    if (!with_labels_) return;
    const int64_t count = log_q.size(0);
    const at::Tensor logs = log_q.gather(1, labels_of(first, count, log_q));
    std::vector<double> weights;
    for (int64_t r = 0; r < count; ++r) weights.push_back(weight_of(first + r));
    const at::Tensor weight = at::tensor(weights, at::kDouble).to(log_q.device());
    LabelGradient gradient;
    for (size_t t = 0; t < options_.terms.size(); ++t)
      if (const LossTerm& term = options_.terms[t]; term.loss->labels)
        sums.values[t] += term.loss->labels({logs, weight}, {term.weight, term.parameter}, &gradient);
    for (int64_t r = 0; r < count; ++r) q_factor[size_t(r)] += weights[size_t(r)] * gradient.q, at_label[size_t(r)] += weights[size_t(r)] * gradient.label;
  }

  void compare_spans(int64_t first, const at::Tensor& log_q_chunk, const std::vector<SpanFacts*>& spans, std::vector<double>& q_factor,
                     std::vector<double>& at_label, at::Tensor& more, LossSums& sums) const {
    std::vector<int64_t> rows, teacher_rows;
    for (const SpanFacts* span : spans) rows.push_back(span->row - first), teacher_rows.push_back(span->teacher_row);
    const at::Tensor places = index_of(rows, log_q_chunk);
    const at::Tensor log_q = log_q_chunk.index_select(0, places);
    const at::Tensor log_p = at::log_softmax(capped(ops::logits(states_.hidden.index_select(0, index_of(teacher_rows, states_.hidden)), states_.head), states_.cap), 1);
    for (size_t t = 0; t < options_.terms.size(); ++t) {
      const LossTerm& term = options_.terms[t];
      if (term.loss == &kMergedKl) merged(term.weight, first, log_q, log_p, spans, places, q_factor, at_label, more, log_q_chunk, sums.values[t]);
      if (term.loss == &kUniversal) universal(term.weight, first, log_q, log_p, spans, places, q_factor, more, log_q_chunk, sums.values[t]);
    }
  }

  void add_to(at::Tensor& more, const at::Tensor& places, const at::Tensor& gradient, const at::Tensor& like) const {
    if (!more.defined()) more = at::zeros_like(like);
    more.index_add_(0, places, gradient);
  }

  void merged(double factor, int64_t first, const at::Tensor& log_q, const at::Tensor& log_p, const std::vector<SpanFacts*>& spans,
              const at::Tensor& places, std::vector<double>& q_factor, std::vector<double>& at_label, at::Tensor& more, const at::Tensor& like,
              double& value) const {
    const at::Tensor lq = log_q.index_select(1, common_), lp = log_p.index_select(1, its_common_);
    at::Tensor q = lq.exp(), p = lp.exp();
    const auto sum_of = [](const at::Tensor& x) { return x.sum(1, false, at::kDouble).to(at::kCPU); };
    // Of all pairs and of all ids without one; pairs that a span takes out are subtracted below.
    const at::Tensor kl = sum_of((lp - lq).mul_(p)), q_others = sum_of(log_q.index_select(1, others_).exp_()),
                     p_others = sum_of(log_p.index_select(1, its_others_).exp_());
    const auto of_label = [&](const at::Tensor& logs, bool ours) {
      std::vector<int64_t> labels;
      for (const SpanFacts* span : spans) labels.push_back(ours ? span->s1 : span->t1);
      return logs.gather(1, index_of(labels, logs).unsqueeze(1)).squeeze(1).to(at::kCPU, at::kDouble);
    };
    const at::Tensor log_s1 = of_label(log_q, true), log_t1 = of_label(log_p, false);
    const auto kls = host_values<double>(kl), q_rests = host_values<double>(q_others), p_rests = host_values<double>(p_others),
               s1 = host_values<double>(log_s1), t1 = host_values<double>(log_t1);
    const bool others = others_.numel() > 0 || its_others_.numel() > 0;
    std::vector<double> ratios, weights;
    std::vector<int64_t> out_rows, out_pairs;
    for (size_t i = 0; i < spans.size(); ++i) {
      SpanFacts& span = *spans[i];
      double of_span = kls[i], q_rest = q_rests[i], p_rest = p_rests[i], ratio = 1, p_e = 0, q_e = 0;
      if (!span.in_common) {
        const double log_q_e = s1[i] + span.log_q_rest, log_p_e = t1[i] + span.log_p_rest;
        p_e = std::exp(log_p_e), q_e = std::exp(log_q_e);
        of_span += p_e * (log_p_e - log_q_e);
        q_rest -= q_e, p_rest -= p_e;
        std::vector<int64_t> pairs = {pair_of_[size_t(span.s1)], its_pair_of_[size_t(span.t1)]};
        if (pairs[0] == pairs[1]) pairs.pop_back();
        for (const int64_t pair : pairs) {
          if (pair < 0) continue;
          const double log_q_pair = lq[int64_t(i)][pair].item<double>(), log_p_pair = lp[int64_t(i)][pair].item<double>();
          of_span -= std::exp(log_p_pair) * (log_p_pair - log_q_pair);
          q_rest += std::exp(log_q_pair), p_rest += std::exp(log_p_pair);
          out_rows.push_back(int64_t(i));
          out_pairs.push_back(pair);
        }
      }
      if (others || !span.in_common) {
        // Empty up to rounding: then a student may put what it likes there.
        p_rest = p_rest < kLeastRest ? 0 : p_rest, q_rest = std::max(q_rest, kLeastRest);
        if (p_rest > 0) of_span += p_rest * (std::log(p_rest) - std::log(q_rest));
        ratio = p_rest / q_rest;
      }
      // With R = 1 - sum of the others, the slope in log q_c is -p_c + ratio q_c, and in the logits ratio - 1 less of every q.
      value += span.weight * std::max(of_span, 0.0);
      const double w = factor * span.weight;
      q_factor[size_t(span.row - first)] += others || !span.in_common ? w * (1 - ratio) : 0.0;
      span.d_log_q += span.in_common ? 0.0 : w * (ratio * q_e - p_e);
      if (!span.in_common) at_label[size_t(span.row - first)] += w * (ratio * q_e - p_e);
      ratios.push_back(others || !span.in_common ? ratio : 1.0);
      weights.push_back(w);
    }
    if (!options_.gradient) return;
    at::Tensor gradient = q.mul_(column(ratios, q)).sub_(p);
    if (!out_rows.empty()) gradient.index_put_({at::indexing::TensorIndex(index_of(out_rows, gradient)), at::indexing::TensorIndex(index_of(out_pairs, gradient))},
                                                  at::zeros({int64_t(out_rows.size())}, gradient.options()));
    gradient.mul_(column(weights, gradient));
    at::Tensor wide = at::zeros_like(log_q);
    wide.index_copy_(1, common_, gradient);
    add_to(more, places, wide, like);
  }

  void universal(double factor, int64_t first, const at::Tensor& log_q, const at::Tensor& log_p, const std::vector<SpanFacts*>& spans,
                 const at::Tensor& places, std::vector<double>& q_factor, at::Tensor& more, const at::Tensor& like, double& value) const {
    const at::Tensor q = log_q.exp();
    const auto [apart, slope] = sorted_difference(q, log_p.exp());
    const at::Tensor sums = apart.sum(1, false, at::kDouble).to(at::kCPU), means = (q * slope).sum(1, false, at::kDouble).to(at::kCPU);
    const auto values = host_values<double>(sums), mean_slope = host_values<double>(means);
    std::vector<double> weights;
    for (size_t i = 0; i < spans.size(); ++i) {
      value += spans[i]->weight * values[i];
      weights.push_back(factor * spans[i]->weight);
      q_factor[size_t(spans[i]->row - first)] -= weights.back() * mean_slope[i];
    }
    if (options_.gradient) add_to(more, places, (q * slope).mul_(column(weights, q)), like);
  }

  const at::Tensor& head_;
  const AlignedStates& states_;
  const RowLabels& rows_;
  const LossOptions& options_;
  int64_t vocab_, its_vocab_;
  std::vector<int64_t> pair_of_, its_pair_of_;  // the place of an id in the common ones, -1: none
  at::Tensor common_, its_common_, others_, its_others_;
  std::vector<SpanFacts> spans_;
  std::vector<int64_t> span_of_later_row_;
  size_t next_ = 0;
  bool with_kl_ = false, with_universal_ = false, with_labels_ = false;
};

}  // namespace

LossSums aligned_loss(const at::Tensor& hidden_in, const at::Tensor& head, const AlignedStates& states, const RowLabels& rows,
                      const LossOptions& options, at::Tensor* d_hidden, at::Tensor* d_head) {
  at::NoGradGuard no_grad;
  OVERPROOF_CHECK(options.temperature == 1.0 && int64_t(rows.labels.size()) == hidden_in.size(0));
  OVERPROOF_CHECK(rows.weight.empty() || rows.weight.size() == rows.labels.size());
  const at::Tensor hidden = hidden_in.detach().contiguous();
  if (options.gradient) *d_hidden = at::empty_like(hidden);
  LossSums sums;
  sums.values.resize(options.terms.size());
  AlignedLoss loss(hidden, head, states, rows, options);
  const int64_t at_once = std::max<int64_t>(ops::logits_chunks(std::max(head.size(0), states.head.size(0))).product / 4, 1);
  ops::HeadGradients gradients{options.gradient ? *d_hidden : at::Tensor(), d_head ? *d_head : at::Tensor(), options.grad_scale};
  ops::head_loss(hidden, head, {at_once, at_once}, [&](int64_t first, at::Tensor& z) { return loss.chunk(first, z, sums); },
                 options.gradient ? &gradients : nullptr);
  return sums;
}

}  // namespace overproof
