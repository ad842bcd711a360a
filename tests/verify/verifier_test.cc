#include "verify/verifier.h"

#include <catch2/catch.hpp>

#include "core/error.h"
#include "tests/skip.h"
#include "tests/support.h"

using namespace overproof;
using enum TaskVerdict;

namespace {

Task task_of(std::string_view json) { return read_task(json, "tasks.jsonl", 0, 1); }

TaskVerdict judged(std::string_view task, std::string_view completion, VerifierOptions options = {}) {
  return Verifier(std::move(options)).judge(task_of(task), completion).verdict;
}

fs::path script(const TempFolder& folder, const std::string& body) {
  const fs::path file = write_text(folder / "judge", "#!/usr/bin/env python3\n" + body);
  fs::permissions(file, fs::perms::owner_all);
  return file;
}

}  // namespace

TEST_CASE("tasks are read with their faults named") {
  const Task task = task_of(R"({"prompt": "1 + 1?", "answer": 2, "origin": "mine"})");
  CHECK(task.name == "task-1");
  CHECK(task.answer == "2");
  CHECK(task.verifier.type == VerifierType::math);
  CHECK(task.record["origin"] == "mine");
  CHECK(task_of(R"({"messages": [{"role": "user", "content": "x"}], "answer": "1", "verifier": {"type": "math", "extract": "boxed", "tolerance": 0.01}})").verifier.extract ==
        AnswerPlace::boxed);
  for (const auto& [record, cause] : std::map<std::string, std::string>{
           {R"({"answer": "2"})", "'prompt' or 'messages'"},
           {R"({"prompt": "x", "messages": [], "answer": "2"})", "not both"},
           {R"({"prompt": "", "answer": "2"})", "'prompt' is empty"},
           {R"({"prompt": "x"})", "'answer' is missing"},
           {R"({"prompt": "x", "answer": "1", "verifier": "maths"})", "is 'maths'; it can be: command, math, program, regex"},
           {R"({"prompt": "x", "answer": "1", "verifier": {"type": "math", "tolerence": 1}})", "tolerence"},
           {R"({"prompt": "x", "verifier": {"type": "program"}})", "every program would pass"},
           {R"({"prompt": "x", "verifier": {"type": "program", "tests": "x", "file": "../x"}})", "plain name"},
           {R"({"prompt": "x", "verifier": {"type": "program", "tests": "x", "command": ["sh", "main.py"]}})", "use 'cases'"},
           {R"({"messages": [{"role": "assistant", "content": "x"}], "answer": "1"})", "where the completion would be"},
           {R"([])", "one JSON object"},
           {R"({"prompt": "x", "answer": "1", "name": "a\nb"})", "line break"}}) {
    CAPTURE(record);
    CHECK_THROWS_WITH(task_of(record), Catch::Contains(cause));
    CHECK_THROWS_AS(task_of(record), FormatError);
  }
  const TempFolder folder;
  const fs::path two = write_text(folder / "tasks.jsonl", "{\"prompt\": \"x\", \"answer\": \"1\", \"name\": \"a\"}\n\n{\"prompt\": \"y\", \"answer\": \"1\", \"name\": \"a\"}\n");
  CHECK_THROWS_WITH(read_tasks(two), Catch::Contains("line 3: two tasks are called 'a'"));
  CHECK_THROWS_WITH(read_tasks(write_text(folder / "none.jsonl", "\n")), Catch::Contains("has no task"));
}

TEST_CASE("patterns decide, and give up rather than take long") {
  const char* prime = R"({"prompt": "x", "verifier": {"type": "regex", "pattern": "\\b(2|3|5|7)\\b"}})";
  CHECK(judged(prime, "I say 7.") == correct);
  CHECK(judged(prime, "I say 17.") == wrong);
  CHECK(judged(prime, "caf\xe9 7") == correct);
  CHECK(judged(R"({"prompt": "x", "verifier": {"type": "regex", "pattern": "(a+)+(?<!a)b"}})", std::string(20'000, 'a') + "c") != correct);
  CHECK_THROWS_AS(judged(R"({"prompt": "x", "verifier": {"type": "regex", "pattern": "("}})", "x"), PatternError);
}

TEST_CASE("a command judges, and its faults are errors that name the task") {
  const TempFolder folder;
  const char* task = R"({"prompt": "x", "name": "sum", "answer": "4", "verifier": "command"})";
  CHECK_THROWS_AS(judged(task, "4"), MismatchError);
  const fs::path good = script(folder, R"(import json, os, sys
for line in sys.stdin:
    r = json.loads(line)
    assert not any(v.startswith("OVERPROOF_") for v in os.environ)
    verdict = "correct" if r["completion"] == r["answer"] else "unknown" if r["completion"] == "?" else "wrong"
    print(json.dumps({"verdict": verdict, "reason": r["name"], "answer": r["completion"][:9]}), flush=True)
)");
  ::setenv("OVERPROOF_KEY", "/secret", 1);
  Verifier verifier({.command = good});
  const Task sum = task_of(task);
  CHECK(verifier.judge(sum, "4").verdict == correct);
  CHECK(verifier.judge(sum, "5").verdict == wrong);
  CHECK(verifier.judge(sum, "?").verdict == unknown);
  CHECK(verifier.judge(sum, std::string(3 << 20, 'x')).reason == "sum");
  ::unsetenv("OVERPROOF_KEY");
  for (const auto& [body, cause] : std::map<std::string, std::string>{{"pass", "ended"},
                                                                     {"import time; time.sleep(100)", "gave no verdict of 'sum' within 1 s"},
                                                                     {"input(); print('{\"verdict\": \"maybe\"}', flush=True); input()", "answered '{\"verdict\": \"maybe\"}'"},
                                                                     {"input(); print('yes', flush=True); input()", "expected one JSON object"},
                                                                     {"while True: print('x' * 1000, end='')", "wrote more than"}}) {
    CAPTURE(body);
    const double seconds = cause.find("within 1 s") != std::string::npos ? 1 : 600;  // so that no other fault depends on the machine's speed
    CHECK_THROWS_WITH(judged(task, "4", {.command = script(folder, body), .command_seconds = seconds}), Catch::Contains(cause));
  }
  CHECK_THROWS_AS(judged(task, "4", {.command = folder / "none"}), IoError);
}

TEST_CASE("the program in a completion is its last block") {
  CHECK(program_in("print(1)") == "print(1)");
  CHECK(program_in("First:\n```python\nx\n```\nthen\n```py\ny\nz\n```\nDone.") == "y\nz\n");
  CHECK(program_in("```\nx\n") == "x\n");
  CHECK(program_in("``````").empty());
  CHECK(program_in("```").empty());
}

TEST_CASE("programs are judged by their tests and by their outputs", "[hardware-namespaces]") {
  try {
    Sandbox sandbox;
  } catch (const IoError& e) {
    CHECK_THROWS_AS(judged(R"({"prompt": "x", "verifier": {"type": "program", "tests": "assert True"}})", "x = 1"), IoError);
    SKIP_CASE(e.what());
  }
  const VerifierOptions patient{.sandbox = {.seconds = 600}};  // no verdict depends on the machine's speed
  const char* add = R"({"prompt": "x", "verifier": {"type": "program", "tests": "assert add(1, 2) == 3"}})";
  CHECK(judged(add, "```python\ndef add(a, b):\n    return a + b\n```", patient) == correct);
  CHECK(judged(add, "def add(a, b): return a - b", patient) == wrong);
  CHECK(judged(add, "def add(a, b): return a +", patient) == wrong);
  CHECK(judged(add, "import os\nos._exit(0)", patient) == wrong);  // ends before its tests, with exit code 0
  CHECK(judged(add, "raise SystemExit(0)", patient) == wrong);
  CHECK(judged(add, "", patient) == unknown);
  const char* cases = R"({"prompt": "x", "verifier": {"type": "program", "cases": [{"stdin": "1 2\n", "stdout": "3"}, {"stdin": "5 5\n", "stdout": "10\n"}]}})";
  CHECK(judged(cases, "print(sum(map(int, input().split())))", patient) == correct);
  CHECK(judged(cases, "print(3)", patient) == wrong);
  CHECK(judged(cases, "while True: pass", {.sandbox = {.seconds = 1}}) == wrong);
  const char* shell = R"({"prompt": "x", "verifier": {"type": "program", "command": ["sh", "main.sh"], "file": "main.sh", "cases": [{"stdin": "a", "stdout": "a b"}]}})";
  CHECK(judged(shell, "```sh\necho \"$(cat) b  \"\n```", patient) == correct);
  CHECK_THROWS_WITH(judged(R"({"prompt": "x", "verifier": {"type": "program", "command": ["no-such-thing"], "cases": [{"stdout": ""}]}})", "x", patient),
                    Catch::Contains("no such program"));
}
