#include "records/evaluation.h"

#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr std::array<std::pair<const char*, std::optional<int64_t> EvaluationRow::*>, 3> kCounts = {
    {{"bytes", &EvaluationRow::bytes},
     {"parameters", &EvaluationRow::parameters},
     {"active_parameters", &EvaluationRow::active_parameters}}};

std::optional<double> number_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number() || !std::isfinite(found->get<double>())) return std::nullopt;
  return found->get<double>();
}

std::optional<int64_t> count_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number_unsigned() || found->get<uint64_t>() > uint64_t(INT64_MAX)) return std::nullopt;
  return found->get<int64_t>();
}

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
  if (!json.is_object() || !json.contains("models") || !json["models"].is_array())
    throw FormatError(origin, -1, "is no JSON object with a list 'models'");
  Evaluation evaluation{count_of(json, "tokens"), count_of(json, "windows"), {}};
  for (const Json& model : json["models"]) {
    if (!model.is_object() || !model.contains("name") || !model["name"].is_string()) continue;
    EvaluationRow row{.name = model["name"].get<std::string>()};
    for (const auto& [name, value] : kEvaluationMetrics) row.*value = number_of(model, name);
    for (const auto& [name, count] : kCounts) row.*count = count_of(model, name);
    evaluation.rows.push_back(std::move(row));
  }
  return evaluation;
}

}  // namespace overproof
