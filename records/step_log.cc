#include "records/step_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

// The names of version 1, by the terms that they are.
constexpr std::pair<const char*, const char*> kFirstNames[] = {{"kl", "forward-kl"}, {"ce", "cross-entropy"}};

double number_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number() ? found->get<double>() : NAN;
}

}  // namespace

Json step_log_line(const StepFormat& format, const StepRecord& r) {
  Json line = {{"step", r.step}, {"loss", r.loss}, {"lr", r.learning_rate}, {"grad_norm", r.grad_norm}, {"tokens", r.tokens},
               {"balance", r.balance}};
  if (format.version == 1) {
    for (size_t i = 0; i < std::size(kFirstNames); ++i) line[kFirstNames[i].first] = r.terms[i];
    return line;
  }
  line["sequences"] = r.sequences;
  line["weight"] = r.weight;
  Json& terms = line["terms"] = Json::object();
  for (size_t i = 0; i < format.terms.size(); ++i) terms[format.terms[i]] = r.terms[i];
  return line;
}

StepCurves parse_step_log(std::string_view text, const fs::path& origin) {
  StepCurves log;
  log.losses.push_back({"loss", {}});
  size_t lines = 0;
  const auto add_term = [&](const std::string& name, double value) {
    auto series = std::find_if(log.losses.begin() + 1, log.losses.end(), [&](const StepSeries& s) { return s.name == name; });
    if (series == log.losses.end()) {
      if (log.losses.size() > kMostLossTerms)
        throw FormatError(origin, -1, fmt::format("has more than {} loss terms", kMostLossTerms));
      log.losses.push_back({name, std::vector<double>(lines, NAN)});
      series = log.losses.end() - 1;
    }
    series->values.resize(lines, NAN);
    series->values.push_back(value);
  };
  for (size_t begin = 0; begin < text.size(); ++lines) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const Json line = parse_json(text.substr(begin, end - begin), origin, int64_t(begin));
    if (!line.is_object()) throw FormatError(origin, int64_t(begin), "a line is not an object");
    log.losses[0].values.push_back(number_of(line, "loss"));
    log.balance.values.push_back(number_of(line, "balance"));
    if (const auto terms = line.find("terms"); terms != line.end() && terms->is_object()) {
      for (const auto& [name, value] : terms->items()) add_term(name, number_of(*terms, name.c_str()));
    } else {
      for (const auto& [name, term] : kFirstNames)
        if (line.contains(name)) add_term(term, number_of(line, name));
    }
    begin = end + 1;
  }
  for (StepSeries& series : log.losses) series.values.resize(lines, NAN);
  return log;
}

}  // namespace overproof
