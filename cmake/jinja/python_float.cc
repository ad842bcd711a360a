#include "python_float.h"

#include <fmt/format.h>

#include <cmath>

std::string overproof_python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);  // the shortest that reads back, with an exponent where Python has one
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}
