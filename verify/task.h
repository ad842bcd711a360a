#pragma once
// Tasks whose completions can be verified, as JSON Lines: one object a line.
//
//   {"prompt": "What is 3 + 4?", "answer": "7"}
//   {"messages": [{"role": "user", "content": "..."}, ...], "answer": "7", "verifier": {"type": "math", "extract": "boxed"}, "name": "sum/17"}
//   {"prompt": "Name a prime.", "verifier": {"type": "regex", "pattern": "\\b(2|3|5|7)\\b"}}
//   {"prompt": "...", "answer": ..., "verifier": {"type": "command"}}
//   {"prompt": "Write add(a, b).", "verifier": {"type": "program", "tests": "assert add(1, 2) == 3"}}
//   {"prompt": "...", "verifier": {"type": "program", "cases": [{"stdin": "1 2\n", "stdout": "3\n"}], "command": ["python3", "main.py"], "file": "main.py"}}
//   {"prompt": "What is 3 + 4?", "answer": "7", "examples": [{"role": "user", ...}, {"role": "assistant", ...}]}
//
// "examples" are messages that the sampled model reads first, and that no student is trained on: what it does with them, the student learns to
// do without. "name" is "task-<line>" where it is missing; names are distinct. "verifier" is a type or an object, "math" where it is missing. All else
// of a record is kept where samples carry their task. docs/verified.md explains the members of each verifier.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/json.h"
#include "verify/math_answer.h"

namespace overproof {

enum class VerifierType { math, regex, command, program };

struct VerifierSpec {
  struct Case {
    std::string input, output;
  };
  VerifierType type = VerifierType::math;
  AnswerPlace extract = AnswerPlace::any;  ///< math
  double tolerance = 0;                    ///< math
  std::string pattern;                     ///< regex
  std::vector<std::string> command = {};   ///< program
  std::string file = "main.py";            ///< program
  std::string tests;                       ///< program, in Python
  std::vector<Case> cases = {};            ///< program
};

struct Task {
  std::string name;
  std::string prompt;     ///< a text; empty where there are messages
  Json messages;          ///< an array, or null
  Json examples;          ///< an array, which may be empty
  std::string answer;     ///< expected; of numbers their JSON text
  VerifierSpec verifier;
  Json record;            ///< as it was read, with its name
  Digest digest;          ///< SHA-256 of the record's line
};

/// What tasks are read for: completions that verifiers judge, or prompts alone, which need neither answer nor verifier.
enum class TaskUse { verified, prompted };

/// One record. `line`: for its name, from 1; `offset`: for faults. Throws FormatError naming the member.
Task read_task(std::string_view text, const fs::path& file, int64_t offset, int64_t line, TaskUse use = TaskUse::verified);
/// All of a file. Throws FormatError, also where a name occurs twice or there is no task.
std::vector<Task> read_tasks(const fs::path& file, TaskUse use = TaskUse::verified);

}  // namespace overproof
