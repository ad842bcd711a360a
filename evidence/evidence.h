#pragma once
// Evidence between two models: what each test computes, and what it can and cannot show. No test is a verdict.
//
// The null hypothesis differs from test to test and is part of its result; so are the assumptions of its p-value. P-values are kept as
// natural logarithms, because strong evidence lies far below what a double can hold after a few multiplications.

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"

namespace overproof {

struct EvidenceTest {
  std::string name;      ///< "committed-order", "weights-order", "weights-matched", "agreement", "radioactivity"
  std::string question;  ///< the null hypothesis, in a sentence
  std::string computed_on;
  std::string statistic;  ///< what `value` is
  double value = 0;
  double log_p = 0;    ///< natural logarithm of the p-value
  std::string p_kind;  ///< the assumptions of the p-value, and whether it is exact
  std::string cannot_show;
  std::string not_run;  ///< why the inputs did not suffice; then all above but name and question are empty
  Json details = Json::object();

  bool ran() const { return not_run.empty(); }
  /// {"name", "ran", "null_hypothesis", ...}; p_value is 0 below 1e-300, log10_p is not.
  Json to_json() const;
};

/// "1.2e-34", also far below what a double holds.
std::string p_text(double log_p);

/// The test that could not be run, and why.
EvidenceTest not_run(const std::string& name, const std::string& question, const std::string& why);

}  // namespace overproof
