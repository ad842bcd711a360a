#include "verify/exact_number.h"

#include <cmath>
#include <cstdlib>
#include <numbers>
#include <numeric>

namespace overproof {
namespace {

namespace mp = boost::multiprecision;

constexpr size_t kMostTerms = 200;
constexpr unsigned kMostBits = 8192;
constexpr int64_t kMostRadicand = int64_t{1} << 31;
constexpr int64_t kMostExponent = 200;
constexpr size_t kMostDigits = 1000;

void check(const BigInt& value) {
  if (value != 0 && mp::msb(value < 0 ? BigInt(-value) : value) >= kMostBits) throw TooHard{"a number has too many digits"};
}

void check(const Rational& value) {
  check(BigInt(mp::numerator(value)));
  check(BigInt(mp::denominator(value)));
}

unsigned bits_of(const Rational& value) {
  const auto bits = [](BigInt n) { return n == 0 ? 0u : unsigned(mp::msb(n < 0 ? BigInt(-n) : n)) + 1; };
  return bits(BigInt(mp::numerator(value))) + bits(BigInt(mp::denominator(value)));
}

/// value^exponent, exponent >= 0.
Rational power_of(const Rational& value, int64_t exponent) {
  if (int64_t(bits_of(value)) * exponent > 2 * int64_t(kMostBits)) throw TooHard{"a number has too many digits"};
  Rational result = 1, base = value;
  for (int64_t n = exponent; n > 0; n >>= 1) {
    if (n & 1) result *= base;
    if (n > 1) base *= base;
  }
  check(result);
  return result;
}

/// The integer whose power `degree` is `value`, value >= 0; nothing where there is none.
std::optional<BigInt> exact_root(const BigInt& value, int64_t degree) {
  if (value < 2) return value;
  BigInt low = 1, high = BigInt(1) << (mp::msb(value) / unsigned(degree) + 1);
  while (low <= high) {
    const BigInt middle = (low + high) / 2;
    const BigInt power = mp::pow(middle, unsigned(degree));
    if (power == value) return middle;
    if (power < value) low = middle + 1;
    else high = middle - 1;
  }
  return std::nullopt;
}


double to_double(const Rational& value) {
  const BigInt top = mp::numerator(value), bottom = mp::denominator(value);
  if (top == 0) return 0;
  // Of an integer quotient with 62 bits or more, so that neither half has to be a double.
  const BigInt size = top < 0 ? BigInt(-top) : top;
  const int64_t shift = 62 - (int64_t(mp::msb(size)) - int64_t(mp::msb(bottom)));
  const BigInt scaled = shift > 0 ? BigInt(size << unsigned(shift)) : size;
  const BigInt divisor = shift < 0 ? BigInt(bottom << unsigned(-shift)) : bottom;
  const double quotient = double(BigInt(scaled / divisor).convert_to<int64_t>());
  return std::ldexp(top < 0 ? -quotient : quotient, int(-shift));
}

}  // namespace

ExactNumber::ExactNumber(const Rational& value) : denominator_({{Term(), Rational(1)}}) {
  check(value);
  add_to(numerator_, Term(), value);
}

ExactNumber::ExactNumber(Sum numerator, Sum denominator) : numerator_(std::move(numerator)), denominator_(std::move(denominator)) {
  if (denominator_.empty()) throw TooHard{"a division by zero"};
  if (denominator_.size() > 1) return;
  // A single term divides every sum: 1/sqrt(r) = sqrt(r)/r, 1/i = -i.
  const auto& [term, value] = *denominator_.begin();
  Term inverse{term.radicand, -term.pi, term.i, {}};
  for (const auto& [letter, exponent] : term.letters) inverse.letters[letter] = -exponent;
  const Rational factor = Rational(term.i ? -1 : 1) / (value * Rational(term.radicand));
  numerator_ = multiply(numerator_, {{inverse, factor}});
  denominator_ = {{Term(), Rational(1)}};
}

ExactNumber ExactNumber::pi() { return {{{Term{.pi = 1}, Rational(1)}}, {{Term(), Rational(1)}}}; }
ExactNumber ExactNumber::i() { return {{{Term{.i = 1}, Rational(1)}}, {{Term(), Rational(1)}}}; }
ExactNumber ExactNumber::variable(const std::string& name) {
  Term term;
  term.letters[name] = 1;
  return {{{term, Rational(1)}}, {{Term(), Rational(1)}}};
}

void ExactNumber::add_to(Sum& sum, const Term& term, const Rational& value) {
  if (value == 0) return;
  const auto [place, is_new] = sum.try_emplace(term, value);
  if (is_new) return;
  place->second += value;
  if (place->second == 0) sum.erase(place);
}

ExactNumber::Sum ExactNumber::add(Sum a, const Sum& b, const Rational& factor) {
  for (const auto& [term, value] : b) {
    const Rational product = value * factor;
    check(product);
    add_to(a, term, product);
  }
  if (a.size() > kMostTerms) throw TooHard{"an expression has too many terms"};
  for (const auto& [term, value] : a) check(value);
  return a;
}

ExactNumber::Sum ExactNumber::multiply(const Sum& a, const Sum& b) {
  if (a.size() * b.size() > 16 * kMostTerms) throw TooHard{"an expression has too many terms"};
  Sum result;
  for (const auto& [one, x] : a)
    for (const auto& [other, y] : b) {
      Rational value = x * y;
      const int64_t common = std::gcd(one.radicand, other.radicand);
      value *= common;
      const int64_t radicand = (one.radicand / common) * (other.radicand / common);
      if (radicand > kMostRadicand) throw TooHard{"a root of too large a number"};
      if (one.i && other.i) value = -value;
      Term term{radicand, one.pi + other.pi, one.i ^ other.i, one.letters};
      for (const auto& [letter, exponent] : other.letters)
        if ((term.letters[letter] += exponent) == 0) term.letters.erase(letter);
      for (const auto& [letter, exponent] : term.letters)
        if (std::abs(exponent) > kMostExponent) throw TooHard{"an exponent is too large"};
      if (std::abs(term.pi) > kMostExponent) throw TooHard{"an exponent is too large"};
      check(value);
      add_to(result, term, value);
    }
  if (result.size() > kMostTerms) throw TooHard{"an expression has too many terms"};
  for (const auto& [term, value] : result) check(value);
  return result;
}

ExactNumber ExactNumber::operator+(const ExactNumber& other) const {
  if (denominator_ == other.denominator_) return {add(numerator_, other.numerator_, 1), denominator_};
  return {add(multiply(numerator_, other.denominator_), multiply(other.numerator_, denominator_), 1), multiply(denominator_, other.denominator_)};
}
ExactNumber ExactNumber::operator-() const { return {add({}, numerator_, -1), denominator_}; }
ExactNumber ExactNumber::operator-(const ExactNumber& other) const { return *this + -other; }
ExactNumber ExactNumber::operator*(const ExactNumber& other) const {
  return {multiply(numerator_, other.numerator_), multiply(denominator_, other.denominator_)};
}
ExactNumber ExactNumber::operator/(const ExactNumber& other) const {
  if (other.is_zero()) throw TooHard{"a division by zero"};
  return {multiply(numerator_, other.denominator_), multiply(denominator_, other.numerator_)};
}

bool ExactNumber::operator==(const ExactNumber& other) const {
  return multiply(numerator_, other.denominator_) == multiply(other.numerator_, denominator_);
}

std::optional<Rational> ExactNumber::rational() const {
  if (numerator_.empty()) return Rational(0);
  if (denominator_.size() != 1 || numerator_.size() != 1 || numerator_.begin()->first != Term()) return std::nullopt;
  return numerator_.begin()->second;
}

ExactNumber ExactNumber::power(const ExactNumber& exponent) const {
  const auto given = exponent.rational();
  if (!given) throw TooHard{"an exponent that is no rational number"};
  const BigInt top = mp::numerator(*given), bottom = mp::denominator(*given);
  if (mp::abs(top) > kMostExponent || bottom > 16) throw TooHard{"an exponent is too large"};
  const auto n = top.convert_to<int64_t>();
  if (bottom != 1) {
    const ExactNumber base = root(bottom.convert_to<int64_t>());
    return base.power(ExactNumber(Rational(n)));
  }
  if (n < 0) return ExactNumber(Rational(1)) / power(-exponent);
  if (n == 0 && is_zero()) throw TooHard{"zero to the power of zero"};
  if (const auto value = rational()) return ExactNumber(power_of(*value, n));
  ExactNumber result(Rational(1)), base = *this;
  for (int64_t k = n; k > 0; k >>= 1) {
    if (k & 1) result = result * base;
    if (k > 1) base = base * base;
  }
  return result;
}

ExactNumber ExactNumber::root(int64_t degree) const {
  const auto value = rational();
  if (!value) throw TooHard{"a root of an expression"};
  if (degree < 2 || degree > 16) throw TooHard{"a root of this degree"};
  const bool negative = *value < 0;
  BigInt top = mp::numerator(*value), bottom = mp::denominator(*value);
  if (negative) top = -top;
  const auto root_top = exact_root(top, degree), root_bottom = exact_root(bottom, degree);
  if (root_top && root_bottom) {
    const ExactNumber size(Rational(*root_top, *root_bottom));
    if (!negative) return size;
    if (degree == 2) return size * i();
    if (degree % 2 == 1) return -size;  // the real one
    throw TooHard{"a root of a negative number"};
  }
  if (degree != 2) throw TooHard{"a root that is not exact"};
  // sqrt(a/b) = sqrt(ab)/b
  BigInt rest = top * bottom;
  if (rest > (BigInt(1) << 42)) throw TooHard{"a root of too large a number"};
  int64_t outside = 1, left = rest.convert_to<int64_t>(), radicand = 1;
  for (int64_t p = 2; p <= (1 << 14) && p * p <= left; ++p) {
    while (left % (p * p) == 0) left /= p * p, outside *= p;
    if (left % p == 0) left /= p, radicand *= p;
  }
  // What is left has no prime factor up to 2^14, and is at most 2^42, so at most two: it is a square, or has no square factor.
  if (const auto whole = exact_root(left, 2); whole && left > 1) outside *= whole->convert_to<int64_t>(), left = 1;
  if (left > kMostRadicand || radicand > kMostRadicand / left) throw TooHard{"a root of too large a number"};
  Term term{.radicand = radicand * left, .i = negative ? 1 : 0};
  return {{{term, Rational(outside) / Rational(bottom)}}, {{Term(), Rational(1)}}};
}

std::optional<double> ExactNumber::approximate(const Sum& sum) {
  double total = 0;
  for (const auto& [term, value] : sum) {
    if (term.i != 0 || !term.letters.empty()) return std::nullopt;
    total += to_double(value) * std::sqrt(double(term.radicand)) * std::pow(std::numbers::pi, term.pi);
  }
  return std::isfinite(total) ? std::optional(total) : std::nullopt;
}

std::optional<double> ExactNumber::approximate() const {
  const auto top = approximate(numerator_), bottom = approximate(denominator_);
  if (!top || !bottom || *bottom == 0) return std::nullopt;
  const double value = *top / *bottom;
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::set<std::string> ExactNumber::variables() const {
  std::set<std::string> names;
  for (const Sum* sum : {&numerator_, &denominator_})
    for (const auto& [term, value] : *sum)
      for (const auto& [letter, exponent] : term.letters) names.insert(letter);
  return names;
}

Rational decimal_value(std::string_view text) {
  BigInt digits = 0;
  int64_t scale = 0;
  size_t count = 0, at = 0;
  bool point = false;
  for (; at < text.size() && text[at] != 'e' && text[at] != 'E'; ++at) {
    if (text[at] == '.') {
      point = true;
      continue;
    }
    digits = digits * 10 + (text[at] - '0');
    scale -= point;
    if (++count > kMostDigits) throw TooHard{"a number has too many digits"};
  }
  if (at < text.size()) {
    const std::string exponent(text.substr(at + 1));
    if (exponent.size() > 5) throw TooHard{"an exponent is too large"};
    scale += std::atoi(exponent.c_str());
  }
  if (std::abs(scale) > int64_t(2 * kMostDigits)) throw TooHard{"an exponent is too large"};
  const BigInt power = mp::pow(BigInt(10), unsigned(std::abs(scale)));
  const Rational value = scale < 0 ? Rational(digits, power) : Rational(digits * power);
  check(value);
  return value;
}

}  // namespace overproof
