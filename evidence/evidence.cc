#include "evidence/evidence.h"

#include <fmt/format.h>

#include <cmath>

namespace overproof {

Json EvidenceTest::to_json() const {
  Json json = {{"name", name}, {"ran", ran()}, {"null_hypothesis", question}};
  if (!ran()) {
    json["not_run"] = not_run;
    return json;
  }
  json["computed_on"] = computed_on;
  json["statistic"] = statistic;
  json["value"] = value;
  json["p_value"] = log_p < -690 ? 0.0 : std::exp(log_p);
  json["log10_p"] = log_p / std::log(10.0);
  json["p_kind"] = p_kind;
  json["cannot_show"] = cannot_show;
  json["details"] = details;
  return json;
}

std::string p_text(double log_p) {
  if (log_p > std::log(1e-3)) return fmt::format("{:.3g}", std::exp(log_p));
  const double decimal = log_p / std::log(10.0);
  double exponent = std::floor(decimal), mantissa = std::pow(10.0, decimal - exponent);
  if (mantissa >= 9.95) mantissa = 1, exponent += 1;
  return fmt::format("{:.1f}e{:.0f}", mantissa, exponent);
}

EvidenceTest not_run(const std::string& name, const std::string& question, const std::string& why) {
  EvidenceTest test;
  test.name = name;
  test.question = question;
  test.not_run = why;
  return test;
}

}  // namespace overproof
