#include "formats/teacher_answer.h"

#include <catch2/catch.hpp>

#include "core/error.h"

using namespace overproof;

namespace {

const std::vector<int32_t> kPrompt = {1, 2, 3};

AnswerShape shape_of(Dialect dialect, const TokenNames* names = nullptr) {
  return {.dialect = dialect, .prompt = kPrompt, .top = 2, .vocab_size = 10, .names = names};
}

}  // namespace

TEST_CASE("token names: a text that may be that of two tokens names none") {
  const TokenNames names({"a", "b", "b", "\xc3", "x\xc3", "x", "\xc3\xa9", "<end>"}, {7});
  CHECK(names.find("a") == 0);
  CHECK(names.find("b") == -1);       // two ids
  CHECK(names.find("x") == -1);       // a server that drops half characters writes "x" for "x\xc3"
  CHECK(names.find("\xef\xbf\xbd") == -1);
  CHECK(names.find("") == -1);
  CHECK(names.find("\xc3\xa9") == 6);
  CHECK(names.find("nothing") == -1);
  CHECK(names.may_be("x", 4));
  CHECK(names.may_be("x\xef\xbf\xbd", 4));
  CHECK_FALSE(names.may_be("y", 4));
  CHECK(names.may_be("", 7));
  CHECK(names.may_be("<end>", 7));
  CHECK_FALSE(names.may_be("", 0));
  CHECK_FALSE(names.may_be("a", 99));
}

TEST_CASE("vLLM's answers: the likeliest ids, never renormalised") {
  const std::string body = R"({"model":"m","choices":[{"prompt_logprobs":[null,{"5":{"logprob":-0.5},"2":{"logprob":-3},"4":{"logprob":-1.5}},)"
                           R"({"3":{"logprob":-0.25}}]}],"usage":{"prompt_tokens":3,"completion_tokens":1}})";
  const TeacherAnswer answer = parse_teacher_answer(body, shape_of(Dialect::vllm), "test");
  REQUIRE(answer.rows.size() == 2);
  CHECK(answer.rows[0].ids == std::vector<int32_t>{4, 5});  // two were asked for: the prompt's own, which is less likely, goes to the tail
  CHECK(answer.rows[0].logs == std::vector<float>{-1.5f, -0.5f});
  CHECK(answer.rows[1].ids == std::vector<int32_t>{3});
  CHECK(answer.prompt_tokens == 3);
  CHECK(answer.model == "m");
}

TEST_CASE("echoed texts: entries without an id stay in the tail, other tokens give no rows") {
  const TokenNames names({"<s>", "b", "c", "d", "e", "e"});
  const std::string body = R"({"choices":[{"logprobs":{"tokens":["b","c","d"],"top_logprobs":[null,{"c":-1,"e":-0.7},{"d":-0.1}]}}]})";
  AnswerShape shape = shape_of(Dialect::echo, &names);
  TeacherAnswer answer = parse_teacher_answer(body, shape, "test");
  REQUIRE(answer.rows.size() == 2);
  CHECK(answer.rows[0].ids == std::vector<int32_t>{2});  // "e" is two ids
  CHECK(answer.unnamed == 1);
  shape.shifted = true;
  answer = parse_teacher_answer(body, shape, "test");
  CHECK(answer.rows[0].ids.empty());  // a server that is one off has nothing for the first token
  CHECK(answer.rows[1].ids == std::vector<int32_t>{2});
  const std::vector<int32_t> other = {1, 3, 3};
  shape.prompt = other;
  answer = parse_teacher_answer(body, shape, "test");
  CHECK(answer.other_tokens);
  CHECK(answer.rows.size() == 2);
  CHECK(answer.rows[0].ids.empty());
}

TEST_CASE("what is not exactly an answer is refused") {
  const TokenNames names({"a", "b", "c", "d"});
  for (const auto& [dialect, body] : std::vector<std::pair<Dialect, const char*>>{
           {Dialect::vllm, "[]"},
           {Dialect::vllm, "{}"},
           {Dialect::vllm, R"({"choices":[{},{}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"2":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[{},{"2":{"logprob":-1}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"9":{"logprob":-1}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"2":{"logprob":1}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"2":{"logprob":-1e400}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"2":{"logprob":-0.01},"4":{"logprob":-0.01}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"2":{"logprob":-1},"02":{"logprob":-2}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_token_ids":[1,2,4],"prompt_logprobs":[null,{"2":{"logprob":-1}},{"3":{"logprob":-1}}]}]})"},
           {Dialect::vllm, R"({"choices":[{"prompt_logprobs":[null,{"2":{"logprob":-1}},{"3":{"logprob":-1}}]}],"usage":{"prompt_tokens":4}})"},
           {Dialect::sglang, R"({"meta_info":{"input_token_logprobs":[[null,1],[-1,2],[-1,4]],"input_top_logprobs":[null,[[-1,2]],[[-1,3]]]}})"},
           {Dialect::sglang, R"({"meta_info":{"input_token_logprobs":[[null,1],[-1,2],[-1,3]],"input_top_logprobs":[null,[[-1,2],[-2,2]],[[-1,3]]]}})"},
           {Dialect::echo, R"({"choices":[{"logprobs":{"tokens":["b","c","d"],"top_logprobs":[null,{"c":-1}]}}]})"},
           {Dialect::echo, R"({"choices":[{"logprobs":null}]})"},
           {Dialect::llama, R"({"completion_probabilities":[]})"},
           {Dialect::llama, R"({"completion_probabilities":[{"top_logprobs":[{"id":11,"logprob":-1}]}]})"},
           {Dialect::llama, R"({"tokens_evaluated":2,"completion_probabilities":[{"top_logprobs":[{"id":1,"logprob":-1}]}]})"},
           {Dialect::completions, R"({"choices":[{"logprobs":{"top_logprobs":[]}}]})"}}) {
    INFO(body);
    CHECK_THROWS_AS(parse_teacher_answer(body, shape_of(dialect, &names), "test"), FormatError);
  }
}

TEST_CASE("a chat completion is one text of the assistant") {
  const ChatAnswer whole = parse_chat_answer(R"({"model": "m", "choices": [{"message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2}})", "x");
  CHECK(whole.text == "Yes.");
  CHECK(whole.model == "m");
  CHECK(whole.whole);
  CHECK(whole.prompt_tokens == 5);
  CHECK(whole.completion_tokens == 2);
  for (const char* reason : {"length", "content_filter", "tool_calls"})
    CHECK_FALSE(parse_chat_answer(R"({"choices": [{"message": {"content": "a"}, "finish_reason": ")" + std::string(reason) + "\"}]}", "x").whole);
  const ChatAnswer refused = parse_chat_answer(R"({"choices": [{"message": {"role": "assistant", "content": null, "refusal": "no"}}]})", "x");
  CHECK(refused.text.empty());
  CHECK(refused.prompt_tokens == -1);
  for (const char* faulty : {"", "[]", R"({"choices": []})", R"({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]})",
                             R"({"choices": [{"text": "a"}]})", R"({"choices": [{"message": {"content": 5}}]})", R"({"choices": [{"message": {"content": [1]}}]})",
                             R"({"choices": [{"message": {"role": "user", "content": "a"}}]})", R"({"choices": [{"message": {"content": "a"}, "finish_reason": 7}]})"})
    CHECK_THROWS_AS(parse_chat_answer(faulty, "x"), FormatError);
}

TEST_CASE("a server's error is one short line") {
  CHECK(server_error_text(R"({"error":{"message":"no\ncredit","code":1}})") == "no credit");
  CHECK(server_error_text(R"({"detail":"x"})") == "x");
  CHECK(server_error_text("<html>") == "<html>");
  CHECK(server_error_text(std::string(5000, 'a')).size() == 300);
}
