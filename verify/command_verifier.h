#pragma once
// A verifier of the user's own: a program that judges completions, one after another.
//
//   its input   one JSON object a line: {"name", "prompt" or "messages", "answer", "completion", ...}: the task's record, with the completion
//   its output  one JSON object a line, in the same order: {"verdict": "correct" | "wrong" | "unknown", "reason": "...", "answer": "..."}
// It is started once, without arguments, and ends at the end of its input. It runs with the rights of the caller, not in the sandbox: it is
// the user's own. Variables that begin with OVERPROOF_ are not in its environment.

#include <string>
#include <string_view>

#include "core/file.h"
#include "core/json.h"
#include "verify/verdict.h"

namespace overproof {

class CommandVerifier {
 public:
  /// `seconds`: for one answer. Throws IoError when the program cannot be started.
  CommandVerifier(fs::path program, double seconds);
  ~CommandVerifier();
  CommandVerifier(const CommandVerifier&) = delete;
  CommandVerifier& operator=(const CommandVerifier&) = delete;

  /// Throws IoError when the program ends, takes too long or answers otherwise, naming the task; Interrupted.
  Judgement judge(const Json& task, std::string_view completion);

 private:
  void start();
  [[noreturn]] void fail(const std::string& cause);

  fs::path program_;
  double seconds_;
  int input_ = -1, output_ = -1, child_ = -1;
  std::string read_;
};

}  // namespace overproof
