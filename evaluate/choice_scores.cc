#include "evaluate/choice_scores.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// One choice to be scored.
struct Scored {
  size_t question = 0, choice = 0;
  std::vector<int64_t> input, labels;  // labels: ids after the last positions of the input
};

std::string shown(const ChoiceQuestion& question, size_t choice) {
  return fmt::format("choice {} of question '{}'", choice, question.name.substr(0, 100));
}

/// Scores all choices whose input is that of `pass` or its beginning.
void take(const Decoder& model, const at::Tensor& hidden, const std::vector<const Scored*>& choices, std::vector<ChoiceScore>& scores) {
  for (const Scored* one : choices) {
    const auto count = int64_t(one->labels.size()), end = int64_t(one->input.size());
    const at::Tensor logits = at::log_softmax(model.logits(hidden.narrow(0, end - count, count)), -1);
    const at::Tensor labels = at::tensor(one->labels, at::kLong);
    const double sum = logits.gather(1, labels.unsqueeze(1)).sum(at::kDouble).item<double>();
    if (!std::isfinite(sum)) throw DivergenceError("the logits of the model are not finite, so its choices cannot be scored");
    scores[one->question].log_likelihoods[one->choice] = sum;
    scores[one->question].greedy[one->choice] = logits.argmax(-1).eq(labels).all().item<bool>();
  }
}

struct Tally {
  std::vector<double> right, right_by_bytes;
  double greedy = 0;
};

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / double(values.size());
}

/// Of the mean: sample standard deviation over the root of the number. Nothing for a single value.
std::optional<double> standard_error(const std::vector<double>& values) {
  if (values.size() < 2) return std::nullopt;
  const double mean = mean_of(values), n = double(values.size());
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / (n - 1) / n);
}

}  // namespace

std::vector<EncodedQuestion> encode_questions(const Tokenizer& tokenizer, bool add_begin, const std::vector<ChoiceQuestion>& questions) {
  std::vector<EncodedQuestion> encoded;
  for (const ChoiceQuestion& question : questions) {
    EncodedQuestion& one = encoded.emplace_back();
    for (size_t c = 0; c < question.choices.size(); ++c) {
      one.choices.push_back(choice_ids(tokenizer, question.context, question.delimiter + question.choices[c], add_begin));
      if (one.choices.back().continuation.empty())
        throw MismatchError(fmt::format("{}: the tokenizer joins all of it with the context, so it has no probability of its own", shown(question, c)));
    }
  }
  return encoded;
}

std::vector<ChoiceScore> score_choices(const Decoder& model, const std::vector<ChoiceQuestion>& questions, const std::vector<EncodedQuestion>& encoded,
                                       int64_t batch, const std::function<void(int64_t)>& step) {
  at::NoGradGuard no_grad;
  const int64_t most = model.config().context();
  std::vector<Scored> all;
  std::vector<ChoiceScore> scores(questions.size());
  for (size_t q = 0; q < encoded.size(); ++q) {
    scores[q].log_likelihoods.resize(encoded[q].choices.size());
    scores[q].greedy.resize(encoded[q].choices.size());
    for (size_t c = 0; c < encoded[q].choices.size(); ++c) {
      const ChoiceIds& ids = encoded[q].choices[c];
      if (most > 0 && int64_t(ids.continuation.size()) > most)
        throw MismatchError(fmt::format("{}: has {} tokens, more than the model's context of {}", shown(questions[q], c), ids.continuation.size(), most));
      Scored& one = all.emplace_back(Scored{q, c, {ids.context.begin(), ids.context.end()}, {ids.continuation.begin(), ids.continuation.end()}});
      one.input.insert(one.input.end(), ids.continuation.begin(), ids.continuation.end() - 1);
      if (most > 0 && int64_t(one.input.size()) > most) one.input.erase(one.input.begin(), one.input.end() - most);
    }
  }
  // Sorted, an input that begins another one is right before the inputs that begin with it: what is no such beginning is a pass.
  std::vector<const Scored*> order;
  for (const Scored& one : all) order.push_back(&one);
  std::ranges::stable_sort(order, [](const Scored* a, const Scored* b) { return a->input < b->input; });
  std::vector<std::vector<const Scored*>> passes;  // the last of each has the whole input
  for (size_t i = 0; i < order.size(); ++i) {
    const std::vector<int64_t>& input = order[i]->input;
    const bool goes_on = i > 0 && passes.back().back()->input.size() <= input.size() &&
                         std::ranges::equal(passes.back().back()->input, std::span(input).first(passes.back().back()->input.size()));
    if (!goes_on) passes.emplace_back();
    passes.back().push_back(order[i]);
  }
  // Of like length, so that little is computed behind the end of the shorter ones; no token sees what is behind it.
  std::ranges::stable_sort(passes, {}, [](const auto& pass) { return pass.back()->input.size(); });
  int64_t done = 0;
  for (size_t first = 0; first < passes.size(); first += size_t(batch)) {
    throw_if_interrupted();
    const size_t count = std::min(size_t(batch), passes.size() - first);
    const auto length = int64_t(passes[first + count - 1].back()->input.size());
    std::vector<int64_t> ids(count * size_t(length), 0);
    for (size_t i = 0; i < count; ++i) std::ranges::copy(passes[first + i].back()->input, ids.begin() + ptrdiff_t(i * size_t(length)));
    const at::Tensor hidden = model.hidden(at::tensor(ids, at::kLong).view({int64_t(count), length}));
    for (size_t i = 0; i < count; ++i) {
      take(model, hidden.narrow(0, int64_t(i) * length, length), passes[first + i], scores);
      done += int64_t(passes[first + i].size());
    }
    if (step) step(done);
  }
  return scores;
}

int64_t largest(const std::vector<double>& values) { return std::ranges::max_element(values) - values.begin(); }

int64_t chosen(const ChoiceScore& score) { return largest(score.log_likelihoods); }

int64_t chosen_by_bytes(const ChoiceQuestion& question, const ChoiceScore& score) {
  std::vector<double> values = score.log_likelihoods;
  for (size_t c = 0; c < values.size(); ++c) values[c] /= double(question.choices[c].size());
  return largest(values);
}

std::vector<EvaluationTask> task_scores(const std::vector<ChoiceQuestion>& questions, const std::vector<ChoiceScore>& scores) {
  std::vector<std::string> names;
  std::map<std::string_view, Tally> tallies;
  for (size_t q = 0; q < questions.size(); ++q) {
    if (!tallies.contains(questions[q].task)) names.push_back(questions[q].task);
    Tally& tally = tallies[questions[q].task];
    tally.right.push_back(chosen(scores[q]) == questions[q].answer ? 1 : 0);
    tally.right_by_bytes.push_back(chosen_by_bytes(questions[q], scores[q]) == questions[q].answer ? 1 : 0);
    tally.greedy += scores[q].greedy[size_t(questions[q].answer)] ? 1 : 0;
  }
  std::vector<EvaluationTask> tasks;
  for (const std::string& name : names) {
    const Tally& tally = tallies[name];
    tasks.push_back({.name = name,
                     .questions = int64_t(tally.right.size()),
                     .acc = mean_of(tally.right),
                     .acc_stderr = standard_error(tally.right),
                     .acc_norm = mean_of(tally.right_by_bytes),
                     .acc_norm_stderr = standard_error(tally.right_by_bytes),
                     .greedy = tally.greedy / double(tally.right.size())});
  }
  return tasks;
}

std::string score_lines(const std::string& model, const std::vector<ChoiceQuestion>& questions, const std::vector<ChoiceScore>& scores) {
  std::string lines;
  for (size_t q = 0; q < questions.size(); ++q)
    lines += dump_text({{"model", model},
                        {"task", questions[q].task},
                        {"name", questions[q].name},
                        {"answer", questions[q].answer},
                        {"log_likelihoods", scores[q].log_likelihoods},
                        {"greedy", scores[q].greedy},
                        {"choice", chosen(scores[q])},
                        {"choice_by_bytes", chosen_by_bytes(questions[q], scores[q])}}) +
             "\n";
  return lines;
}

}  // namespace overproof
