#include "records/evaluation.h"

#include <utility>

#include "core/json_object.h"

namespace overproof {
namespace {

constexpr std::array<std::pair<const char*, std::optional<int64_t> EvaluationRow::*>, 4> kCounts = {
    {{"bytes", &EvaluationRow::bytes},
     {"parameters", &EvaluationRow::parameters},
     {"active_parameters", &EvaluationRow::active_parameters},
     {"bytes_per_token", &EvaluationRow::bytes_per_token}}};

constexpr std::array<std::pair<const char*, std::optional<double> EvaluationText::*>, 3> kTextMetrics = {
    {{"perplexity", &EvaluationText::perplexity},
     {"kl_mean", &EvaluationText::kl_mean},
     {"top1_agreement", &EvaluationText::top1_agreement}}};

constexpr std::array<std::pair<const char*, std::optional<double> EvaluationTask::*>, 5> kTaskMetrics = {
    {{"acc", &EvaluationTask::acc},
     {"acc_stderr", &EvaluationTask::acc_stderr},
     {"acc_norm", &EvaluationTask::acc_norm},
     {"acc_norm_stderr", &EvaluationTask::acc_norm_stderr},
     {"greedy", &EvaluationTask::greedy}}};

}  // namespace

Json to_json(const Evaluation& evaluation) {
  Json models = Json::array();
  for (const EvaluationRow& row : evaluation.rows) {
    Json model = {{"name", row.name}};
    for (const auto& [name, value] : kEvaluationMetrics)
      if (row.*value) model[name] = *(row.*value);
    for (const auto& [name, count] : kCounts)
      if (row.*count) model[name] = *(row.*count);
    for (const EvaluationText& text : row.texts) {
      Json& part = model["texts"].emplace_back(Json{{"name", text.name}});
      if (text.tokens) part["tokens"] = *text.tokens;
      for (const auto& [name, value] : kTextMetrics)
        if (text.*value) part[name] = *(text.*value);
    }
    for (const EvaluationTask& task : row.tasks) {
      Json& part = model["tasks"].emplace_back(Json{{"name", task.name}});
      if (task.questions) part["questions"] = *task.questions;
      for (const auto& [name, value] : kTaskMetrics)
        if (task.*value) part[name] = *(task.*value);
    }
    models.push_back(std::move(model));
  }
  Json json = {{"models", std::move(models)}};
  if (evaluation.tokens) json["tokens"] = *evaluation.tokens;
  if (evaluation.windows) json["windows"] = *evaluation.windows;
  if (evaluation.prompts) json["prompts"] = *evaluation.prompts;
  if (evaluation.repetition_penalty) json["repetition_penalty"] = *evaluation.repetition_penalty;
  return json;
}

Evaluation parse_evaluation(std::string_view text, const fs::path& origin) {
  const Json json = parse_json(text, origin);
  const JsonObject object(json, origin, "", JsonNull::absent);
  const auto count = [](const JsonObject& from, const char* name) {
    return from.has(name) ? std::optional(from.integer(name, 0, INT64_MAX)) : std::nullopt;
  };
  Evaluation evaluation{count(object, "tokens"), count(object, "windows"), {}, count(object, "prompts")};
  if (object.has("repetition_penalty")) evaluation.repetition_penalty = object.number("repetition_penalty");
  for (const JsonObject& model : object.objects("models")) {
    EvaluationRow row{.name = model.text("name")};
    for (const auto& [name, value] : kEvaluationMetrics)
      if (model.has(name)) row.*value = model.number(name);
    for (const auto& [name, value] : kCounts) row.*value = count(model, name);
    for (const JsonObject& part : model.objects_or_empty("texts")) {
      EvaluationText text{.name = part.text("name"), .tokens = count(part, "tokens")};
      for (const auto& [name, value] : kTextMetrics)
        if (part.has(name)) text.*value = part.number(name);
      row.texts.push_back(std::move(text));
    }
    for (const JsonObject& part : model.objects_or_empty("tasks")) {
      EvaluationTask task{.name = part.text("name"), .questions = count(part, "questions")};
      for (const auto& [name, value] : kTaskMetrics)
        if (part.has(name)) task.*value = part.number(name);
      row.tasks.push_back(std::move(task));
    }
    evaluation.rows.push_back(std::move(row));
  }
  return evaluation;
}

}  // namespace overproof
