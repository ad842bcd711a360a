#include <catch2/catch.hpp>

#include <functional>

#include "core/config.h"
#include "core/error.h"
#include "core/json.h"

using namespace overproof;

namespace {
struct Sample {
  bool fast = false;
  int64_t top_k = 3;
  double rate = 0.1;
  std::string mode = "sample";
  template <class V>
  void visit(V&& v) {
    v("fast", fast, any_value(), "go fast");
    v("top-k", top_k, in_range(1, 64), "experts a token");
    v("learning-rate", rate, at_least(0), "step size");
    v("mode", mode, one_of({"sample", "top-k"}), "how");
  }
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}
}  // namespace

TEST_CASE("an option is parsed, checked and written back") {
  Sample s;
  Options options = options_of(s);
  find_option(options, "top-k", "recipe").assign("12");
  find_option(options, "learning-rate", "recipe").assign("3e-4");
  find_option(options, "fast", "recipe").assign("yes");
  CHECK(s.top_k == 12);
  CHECK(s.rate == 3e-4);
  CHECK(s.fast);
  CHECK(find_option(options, "learning-rate", "recipe").text() == "0.0003");

  Sample back;
  Options other = options_of(back);
  from_json(other, to_json(options), "statement");
  CHECK(to_json(other) == to_json(options));
}

TEST_CASE("an option in a statement must have its type and be in its range") {
  Sample s;
  Options options = options_of(s);
  const auto refused = [&](const Json& object) { return message_of([&] { from_json(options, object, "claims.jsonl"); }); };
  CHECK_THAT(refused({{"top-k", "5"}}), Catch::Contains("claims.jsonl") && Catch::Contains("wrong type"));
  CHECK_THAT(refused({{"top-k", 5.5}}), Catch::Contains("wrong type"));
  CHECK_THAT(refused({{"fast", 1}}), Catch::Contains("wrong type"));
  CHECK_THAT(refused({{"mode", true}}), Catch::Contains("wrong type"));
  CHECK_THAT(refused({{"learning-rate", nullptr}}), Catch::Contains("wrong type"));
  CHECK_THAT(refused({{"top-k", 65}}), Catch::Contains("from 1 to 64"));
  CHECK_THAT(refused({{"tpo-k", 5}}), Catch::Contains("did you mean 'top-k'?"));
  CHECK(refused({{"learning-rate", 2}, {"fast", true}}) == "no error");
  CHECK((s.fast && s.rate == 2.0));
}

TEST_CASE("the message of a wrong option names the fault and the nearest option") {
  Sample s;
  Options options = options_of(s);
  CHECK_THAT(message_of([&] { find_option(options, "tpo-k", "a.ini: line 3"); }),
             Catch::Contains("a.ini: line 3") && Catch::Contains("did you mean 'top-k'?"));
  CHECK_THAT(message_of([&] { find_option(options, "zzzzzz", "a.ini"); }), Catch::Contains("known are fast, top-k"));
  CHECK_THAT(message_of([&] { find_option(options, "top-k", "").assign("65"); }), Catch::Contains("an integer from 1 to 64"));
  CHECK_THAT(message_of([&] { find_option(options, "top-k", "").assign("3.5"); }), Catch::Contains("'3.5'"));
  CHECK_THAT(message_of([&] { find_option(options, "learning-rate", "").assign("nan"); }), Catch::Contains("at least 0"));
  CHECK_THAT(message_of([&] { find_option(options, "mode", "").assign("sampel"); }), Catch::Contains("did you mean 'sample'?"));
  s.top_k = 99;
  CHECK_THROWS_AS(find_option(options, "top-k", "").check(), UsageError);
}

TEST_CASE("an empty value does not set a flag, and a short word is near to no other") {
  Sample s;
  Options options = options_of(s);
  CHECK_THROWS_WITH(find_option(options, "fast", "").assign(""), Catch::Contains("true or false"));
  CHECK_FALSE(s.fast);
  CHECK(nearest("a", {"b", "top-k"}).empty());
  CHECK(nearest("ab", {"b", "cb"}).empty());
  CHECK(nearest("abc", {"abd", "xyz"}) == "abd");
}

TEST_CASE("a list has the elements between its commas") {
  CHECK(split_list("").empty());
  CHECK(split_list(" , ,,").empty());
  CHECK(split_list("a") == std::vector<std::string>{"a"});
  CHECK(split_list(" a b ,c,, d=e ") == std::vector<std::string>{"a b", "c", "d=e"});
}
