#include "core/isolated.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <stdexcept>
#include <vector>

using namespace overproof;

namespace {

int nested(int depth) {
  volatile char room[4096] = {};
  return depth == 0 ? 0 : nested(depth + (room[0] == 0 ? 1 : 0)) + room[1];  // never 0
}

std::string obey(std::string_view question) {
  static int asked = 0;
  ++asked;
  if (question == "count") return std::to_string(asked);
  if (question == "loop")
    for (volatile unsigned i = 0;;) i = i + 1;
  if (question == "nest") return std::to_string(nested(1));
  if (question == "throw") throw std::runtime_error("no");
  if (question == "abort") std::abort();
  if (question == "memory") {
    std::vector<std::string> all;
    for (int i = 0; i < 4096; ++i) all.emplace_back(size_t{1} << 20, 'x');
    return all.back();
  }
  if (question == "large") return std::string(3000, 'x');
  return "<" + std::string(question) + ">";
}

IsolatedFault::Kind fault_of(IsolatedFunction& function, std::string_view question) {
  try {
    function.ask(question);
  } catch (const IsolatedFault& fault) {
    return fault.kind;
  }
  throw std::runtime_error("no fault");
}

}  // namespace

TEST_CASE("a function in a process of its own answers, and its end is a value") {
  using enum IsolatedFault::Kind;
  IsolatedFunction function(obey, {.memory_bytes = 256 << 20, .cpu_seconds = 600, .answer_bytes = 2000});
  CHECK(function.ask("a") == "<a>");
  CHECK(function.ask("") == "<>");
  CHECK(function.ask("count") == "3");
  CHECK(fault_of(function, "large") == too_large);
  CHECK(function.ask("count") == "5");
  for (const char* question : {"throw", "abort", "nest", "memory"}) {
    INFO(question);
    CHECK(fault_of(function, question) == crashed);
    CHECK(function.ask("count") == "1");  // anew
  }
  // Alone: beside another bound, the machine's speed would decide which of them ends the process.
  IsolatedFunction timed(obey, {.memory_bytes = 256 << 20, .cpu_seconds = 1, .answer_bytes = 2000});
  CHECK(fault_of(timed, "loop") == too_slow);
  CHECK(timed.ask("b") == "<b>");
}
