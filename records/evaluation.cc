#include "records/evaluation.h"

#include <utility>

#include "core/json_object.h"

namespace overproof {
namespace {

constexpr std::array<std::pair<const char*, std::optional<int64_t> EvaluationRow::*>, 3> kCounts = {
    {{"bytes", &EvaluationRow::bytes},
     {"parameters", &EvaluationRow::parameters},
     {"active_parameters", &EvaluationRow::active_parameters}}};

}  // namespace

Json to_json(const Evaluation& evaluation) {
  Json models = Json::array();
  for (const EvaluationRow& row : evaluation.rows) {
    Json model = {{"name", row.name}};
    for (const auto& [name, value] : kEvaluationMetrics)
      if (row.*value) model[name] = *(row.*value);
    for (const auto& [name, count] : kCounts)
      if (row.*count) model[name] = *(row.*count);
    models.push_back(std::move(model));
  }
  Json json = {{"models", std::move(models)}};
  if (evaluation.tokens) json["tokens"] = *evaluation.tokens;
  if (evaluation.windows) json["windows"] = *evaluation.windows;
  return json;
}

Evaluation parse_evaluation(std::string_view text, const fs::path& origin) {
  const Json json = parse_json(text, origin);
  const JsonObject object(json, origin, "", JsonNull::absent);
  const auto count = [](const JsonObject& from, const char* name) {
    return from.has(name) ? std::optional(from.integer(name, 0, INT64_MAX)) : std::nullopt;
  };
  Evaluation evaluation{count(object, "tokens"), count(object, "windows"), {}};
  for (const JsonObject& model : object.objects("models")) {
    EvaluationRow row{.name = model.text("name")};
    for (const auto& [name, value] : kEvaluationMetrics)
      if (model.has(name)) row.*value = model.number(name);
    for (const auto& [name, value] : kCounts) row.*value = count(model, name);
    evaluation.rows.push_back(std::move(row));
  }
  return evaluation;
}

}  // namespace overproof
