#include "evaluate/arena_judges.h"

#include <catch2/catch.hpp>

using namespace overproof;

TEST_CASE("a verdict is the last mark of a judge's answer") {
  CHECK(verdict_in("Answer A is right. [[A]]") == 1.0);
  CHECK(verdict_in("[[A]] was my first thought, but [[B]]") == 0.0);
  CHECK(verdict_in("[[C]].") == 0.5);
  CHECK(verdict_in("[[B]] and then [[x]] [[") == 0.0);
  CHECK_FALSE(verdict_in("A is better"));
  CHECK_FALSE(verdict_in(""));
  CHECK_FALSE(verdict_in("[[[[["));
  CHECK_FALSE(verdict_in("[[a]]"));
}

TEST_CASE("a battle is won when both orders agree, and without a verdict when one has none") {
  CHECK(both_orders(1.0, 1.0) == 1.0);
  CHECK(both_orders(0.0, 0.0) == 0.0);
  CHECK(both_orders(0.5, 0.5) == 0.5);
  CHECK(both_orders(1.0, 0.0) == 0.5);  // the judge prefers a place
  CHECK(both_orders(1.0, 0.5) == 0.5);
  CHECK_FALSE(both_orders({}, 1.0));
  CHECK_FALSE(both_orders(0.5, {}));
}

TEST_CASE("a judge reads the question and both answers, and no name") {
  Task task;
  task.name = "secret-task-name";
  task.prompt = "What is 1 + 1?";
  const Json messages = judge_messages(task, "two", "three");
  REQUIRE(messages.size() == 2);
  const std::string text = messages[1]["content"].get<std::string>();
  CHECK(text.find("What is 1 + 1?") != std::string::npos);
  CHECK(text.find("[Answer A]\ntwo\n") < text.find("[Answer B]\nthree\n"));
  CHECK(text.find("Reference") == std::string::npos);
  CHECK(messages.dump().find("secret") == std::string::npos);
  task.answer = "2";
  CHECK(judge_messages(task, "two", "three")[1]["content"].get<std::string>().find("[Reference answer]\n2\n") != std::string::npos);
  task.prompt.clear();
  task.messages = Json::array({{{"role", "user"}, {"content", "Hello"}}, {{"role", "assistant"}, {"content", "Hi"}}, {{"role", "user"}, {"content", "And?"}}});
  CHECK(judge_messages(task, "x", "y")[1]["content"].get<std::string>().find("user: Hello\n\nassistant: Hi\n\nuser: And?") != std::string::npos);
}
