#include "verify/verifier.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <cerrno>

#include "core/error.h"
#include "core/utf8.h"

namespace overproof {
namespace {

constexpr size_t kMostPatterns = 1000;

/// Of random bytes: what a program cannot know.
std::string secret() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != ssize_t(sizeof bytes)) throw IoError("getrandom", "cannot get random bytes", errno);
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

/// Without blanks at the ends of lines and without empty lines at the end.
std::string normal_output(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == ' ' || line.back() == '\t' || line.back() == '\r')) line.remove_suffix(1);
    out += line;
    out += '\n';
    at = end + 1;
  }
  while (out.ends_with("\n")) out.pop_back();
  return out;
}

std::optional<Judgement> stopped(const SandboxRun& run, const SandboxLimits& limits) {
  using End = SandboxRun::End;
  switch (run.end) {
    case End::exited: return std::nullopt;
    case End::out_of_time: return Judgement{TaskVerdict::wrong, fmt::format("ran longer than {:g} s", limits.seconds)};
    case End::out_of_memory: return Judgement{TaskVerdict::wrong, fmt::format("took more than {} MiB of memory", limits.memory_bytes >> 20)};
    case End::too_many_processes: return Judgement{TaskVerdict::wrong, fmt::format("started more than {} processes", limits.processes)};
    case End::too_much_output: return Judgement{TaskVerdict::wrong, fmt::format("wrote more than {} KiB", limits.output_bytes >> 10)};
  }
  OVERPROOF_CHECK(false);
}

}  // namespace

std::string program_in(std::string_view completion) {
  constexpr std::string_view kFence = "```";
  const size_t close = completion.rfind(kFence);
  if (close == std::string_view::npos) return std::string(completion);
  size_t open = close == 0 ? std::string_view::npos : completion.rfind(kFence, close - 1);
  size_t end = close;
  if (open == std::string_view::npos) open = close, end = completion.size();  // a block that is not closed
  const size_t line = completion.find('\n', open);
  if (line == std::string_view::npos || line >= end) return "";
  return std::string(completion.substr(line + 1, end - line - 1));
}

Judgement Verifier::judge(const Task& task, std::string_view completion) {
  switch (task.verifier.type) {
    case VerifierType::math: return judge_math(task, completion);
    case VerifierType::regex: return judge_regex(task, completion);
    case VerifierType::command: return judge_command(task, completion);
    case VerifierType::program: return judge_program(task, completion);
  }
  OVERPROOF_CHECK(false);
}

Judgement Verifier::judge_math(const Task& task, std::string_view completion) const {
  const auto answer = find_answer(completion, task.verifier.extract, is_choice(task.answer));
  if (!answer) return {TaskVerdict::unknown, "no answer found"};
  return compare_answers(task.answer, *answer, task.verifier.tolerance);
}

Judgement Verifier::judge_regex(const Task& task, std::string_view completion) {
  const std::string& pattern = task.verifier.pattern;
  auto known = patterns_.find(pattern);
  if (known == patterns_.end()) {
    if (patterns_.size() >= kMostPatterns) patterns_.clear();
    known = patterns_.emplace(pattern, Regex(pattern, Regex::Text::utf8, fmt::format("the pattern of task '{}'", task.name))).first;
  }
  const std::string text = to_valid_utf8(completion);
  try {
    const auto match = RegexScan(known->second, text).next(0);
    return match ? Judgement{TaskVerdict::correct, "matches"} : Judgement{TaskVerdict::wrong, "does not match"};
  } catch (const FormatError&) {
    return {TaskVerdict::unknown, "the pattern takes too many steps on this completion"};
  }
}

Judgement Verifier::judge_command(const Task& task, std::string_view completion) {
  if (!command_) {
    if (options_.command.empty())
      throw MismatchError(fmt::format("task '{}' has the verifier 'command', and no command was given; give it with --command", task.name));
    command_ = std::make_unique<CommandVerifier>(options_.command, options_.command_seconds);
  }
  return command_->judge(task.record, completion);
}

Judgement Verifier::judge_program(const Task& task, std::string_view completion) {
  if (!sandbox_) sandbox_.emplace(options_.sandbox);
  const VerifierSpec& spec = task.verifier;
  if (programs_.insert(spec.command[0]).second) {
    const SandboxRun found = sandbox_->run({"sh", "-c", "command -v -- \"$1\"", "sh", spec.command[0]}, {}, "");
    if (found.exit_code != 0)
      throw IoError(spec.command[0], fmt::format("the sandbox, which has what is in /usr/bin, has no such program; task '{}' runs it", task.name), 0);
  }
  const std::string program = program_in(completion);
  if (program.empty()) return {TaskVerdict::unknown, "no program found"};
  if (!spec.tests.empty()) {
    // A program that ends before its tests has exit code 0 as well.
    const std::string passed = secret();
    const std::string all = fmt::format("{}\n\n{}\n\nimport os as _os, sys as _sys\n_sys.stdout.flush()\n_os.write(1, b\"{}\")\n", program, spec.tests, passed);
    const SandboxRun run = sandbox_->run(spec.command, {{spec.file, all}}, "");
    if (const auto end = stopped(run, options_.sandbox)) return *end;
    if (run.exit_code != 0) return {TaskVerdict::wrong, fmt::format("the program or its tests failed with exit code {}", run.exit_code)};
    if (!run.output.ends_with(passed)) return {TaskVerdict::wrong, "the program ended before its tests"};
  }
  for (size_t i = 0; i < spec.cases.size(); ++i) {
    const SandboxRun run = sandbox_->run(spec.command, {{spec.file, program}}, spec.cases[i].input);
    if (const auto end = stopped(run, options_.sandbox)) return *end;
    if (run.exit_code != 0) return {TaskVerdict::wrong, fmt::format("case {} of {} ended with exit code {}", i + 1, spec.cases.size(), run.exit_code)};
    if (normal_output(run.output) != normal_output(spec.cases[i].output))
      return {TaskVerdict::wrong, fmt::format("case {} of {} has another output", i + 1, spec.cases.size())};
  }
  return {TaskVerdict::correct, "passes its tests"};
}

}  // namespace overproof
