#pragma once
// Judges completions of tasks by the verifier that each names.

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/regex.h"
#include "verify/command_verifier.h"
#include "verify/sandbox.h"
#include "verify/task.h"
#include "verify/verdict.h"

namespace overproof {

struct VerifierOptions {
  fs::path command;             ///< judges tasks of the type `command`; empty: there are none
  double command_seconds = 60;  ///< for one completion
  SandboxLimits sandbox;        ///< of programs
};

class Verifier {
 public:
  explicit Verifier(VerifierOptions options) : options_(std::move(options)) {}

  /// Throws MismatchError for a task of the type `command` without a command, IoError where a sandbox cannot be made or the command
  /// fails, PatternError for a pattern that is none.
  Judgement judge(const Task& task, std::string_view completion);

 private:
  Judgement judge_math(const Task& task, std::string_view completion) const;
  Judgement judge_regex(const Task& task, std::string_view completion);
  Judgement judge_command(const Task& task, std::string_view completion);
  Judgement judge_program(const Task& task, std::string_view completion);

  VerifierOptions options_;
  std::map<std::string, Regex> patterns_;
  std::unique_ptr<CommandVerifier> command_;
  std::optional<Sandbox> sandbox_;
  std::set<std::string> programs_;  // that the sandbox has
};

/// The program in a completion: the last block between ``` marks, else all of it.
std::string program_in(std::string_view completion);

}  // namespace overproof
