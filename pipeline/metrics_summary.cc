#include "pipeline/metrics_summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "records/evaluation.h"

namespace overproof {
namespace {

constexpr size_t kMostLines = 60, kMostValue = 160;

std::string number(const std::optional<double>& value, int digits, double scale = 1, const char* unit = "") {
  return value ? fmt::format("{:.{}f}{}", scale * *value, digits, unit) : "-";
}

std::string count(const std::optional<int64_t>& value, const char* unit) {
  return value ? fmt::format("{:.2f} {}", 1e-6 * double(*value), unit) : "-";
}

std::vector<std::string> evaluation_lines(const Evaluation& e) {
  size_t width = 5;
  for (const EvaluationRow& row : e.rows) width = std::max(width, std::min<size_t>(row.name.size(), 40));
  std::vector<std::string> lines;
  if (e.tokens) lines.push_back(fmt::format("{} held-out tokens; KL(teacher || model) in nats a token", *e.tokens));
  lines.push_back(fmt::format("{:<{}}  {:>10}  {:>8}  {:>8}  {:>7}  {:>8}  {:>8}  {:>11}  {:>11}", "model", width, "perplexity", "KL",
                              "KL p99", "top-1", "FFN act.", "all act.", "params", "size"));
  for (const EvaluationRow& row : e.rows)
    lines.push_back(fmt::format("{:<{}}  {:>10}  {:>8}  {:>8}  {:>7}  {:>8}  {:>8}  {:>11}  {:>11}", row.name, width,
                                number(row.perplexity, 3), number(row.kl_mean, 4), number(row.kl_p99, 3),
                                number(row.top1_agreement, 1, 100, "%"), number(row.ffn_activation, 1, 100, "%"),
                                number(row.parameter_activation, 1, 100, "%"), count(row.parameters, "M"), count(row.bytes, "MB")));
  for (const EvaluationRow& row : e.rows)
    for (const EvaluationText& text : row.texts)
      lines.push_back(fmt::format("{:<{}}  {:>10}  {:>8}  {:>8}  {:>7}  on {}", row.name, width, number(text.perplexity, 3),
                                  number(text.kl_mean, 4), "", number(text.top1_agreement, 1, 100, "%"), text.name));
  for (const EvaluationRow& row : e.rows)
    for (const EvaluationTask& task : row.tasks)
      lines.push_back(fmt::format("{:<{}}  acc {} ± {}, acc_norm {} ± {} of {} questions of {}", row.name, width, number(task.acc, 1, 100, "%"),
                                  number(task.acc_stderr, 1, 100), number(task.acc_norm, 1, 100, "%"), number(task.acc_norm_stderr, 1, 100),
                                  task.questions.value_or(0), task.name));
  for (const EvaluationRow& row : e.rows)
    if (row.loops)
      lines.push_back(fmt::format("{:<{}}  answers to fixed prompts: {} go in loops{}, {} of the teacher's ids", row.name, width,
                                  number(row.loops, 0, 100, "%"),
                                  row.loops_penalised && e.repetition_penalty
                                      ? fmt::format(" ({} with a repetition penalty of {})", number(row.loops_penalised, 0, 100, "%"), *e.repetition_penalty)
                                      : "", number(row.answer_agreement, 1, 100, "%")));
  return lines;
}

void add_lines(const std::string& name, const Json& value, std::vector<std::string>& lines) {
  if (lines.size() > kMostLines) return;
  if (value.is_object()) {
    for (const auto& [key, item] : value.items()) add_lines(name.empty() ? key : name + "." + key, item, lines);
  } else {
    const std::string text = value.is_string() ? value.get<std::string>() : dump_text(value);
    lines.push_back(name + ": " +
                    (text.size() <= kMostValue  ? text
                     : value.is_array() ? fmt::format("{} values", value.size())
                                        : text.substr(0, kMostValue) + "..."));
  }
}

}  // namespace

std::vector<std::string> metrics_summary(const Json& metrics) {
  if (metrics.contains("models")) {
    try {
      return evaluation_lines(parse_evaluation(dump_text(metrics), "metrics"));
    } catch (const FormatError&) {  // signed by any maker: as it is
    }
  }
  std::vector<std::string> lines;
  add_lines("", metrics, lines);
  if (lines.size() > kMostLines) {
    lines.resize(kMostLines);
    lines.emplace_back("and more: --json has all of them");
  }
  return lines;
}

}  // namespace overproof
