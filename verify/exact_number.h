#pragma once
// Exact numbers of answers: quotients of sums of terms  q * sqrt(r) * pi^n * i^m * x^k ...  with q rational, r a positive integer without square
// factors, and any letters x. Sums are kept in one form, and square roots of different r are linearly independent over the rationals, so
// that two sums are equal where their terms are. Arithmetic beyond the limits throws TooHard.

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <boost/multiprecision/cpp_int.hpp>

namespace overproof {

using BigInt = boost::multiprecision::cpp_int;
using Rational = boost::multiprecision::cpp_rational;

/// What this arithmetic does not decide: an operation that it does not have, or a number beyond its limits.
struct TooHard {
  std::string cause;
};

class ExactNumber {
 public:
  ExactNumber() : ExactNumber(Rational(0)) {}
  explicit ExactNumber(const Rational& value);
  static ExactNumber pi();
  static ExactNumber i();
  static ExactNumber variable(const std::string& name);

  ExactNumber operator+(const ExactNumber& other) const;
  ExactNumber operator-(const ExactNumber& other) const;
  ExactNumber operator-() const;
  ExactNumber operator*(const ExactNumber& other) const;
  ExactNumber operator/(const ExactNumber& other) const;  ///< throws TooHard for a division by zero
  /// Integer exponents; others of rational numbers, where the root is a square root or exact.
  ExactNumber power(const ExactNumber& exponent) const;
  /// Of a rational number. `degree` from 2 on.
  ExactNumber root(int64_t degree) const;

  bool operator==(const ExactNumber& other) const;
  bool is_zero() const { return numerator_.empty(); }
  std::optional<Rational> rational() const;
  /// The number in floating point, to order and to measure; nothing with letters, i, or beyond the range.
  std::optional<double> approximate() const;
  std::set<std::string> variables() const;

 private:
  struct Term {
    int64_t radicand = 1;
    int32_t pi = 0, i = 0;  // i: 0 or 1
    std::map<std::string, int32_t> letters = {};
    auto operator<=>(const Term&) const = default;
  };
  using Sum = std::map<Term, Rational>;  // without zeros

  ExactNumber(Sum numerator, Sum denominator);
  static Sum add(Sum a, const Sum& b, const Rational& factor);
  static Sum multiply(const Sum& a, const Sum& b);
  static void add_to(Sum& sum, const Term& term, const Rational& value);
  static std::optional<double> approximate(const Sum& sum);

  Sum numerator_, denominator_;
};

/// "12", "12.5" or "1e-3": digits with at most one point and an exponent. Throws TooHard for one of more than 1,000 digits.
Rational decimal_value(std::string_view digits);

}  // namespace overproof
