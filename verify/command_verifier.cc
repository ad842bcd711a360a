#include "verify/command_verifier.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <vector>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/printable.h"
#include "core/utf8.h"

extern char** environ;

namespace overproof {
namespace {

constexpr size_t kMostAnswer = size_t{1} << 20;

}  // namespace

CommandVerifier::CommandVerifier(fs::path program, double seconds) : program_(std::move(program)), seconds_(seconds) {
  if (::access(program_.c_str(), X_OK) != 0) throw IoError(program_, "the command that verifies cannot be executed", errno);
  start();
}

CommandVerifier::~CommandVerifier() {
  if (input_ >= 0) ::close(input_);
  if (output_ >= 0) ::close(output_);
  if (child_ > 0) {
    ::kill(-child_, SIGKILL);  // it has answered all it was asked
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

void CommandVerifier::start() {
  int questions[2], answers[2];
  // A socket: a write to a program that has ended is an error, and no signal.
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, questions) != 0) throw IoError("", "cannot make a socket pair", errno);
  if (::pipe2(answers, O_CLOEXEC) != 0) throw IoError("", "cannot make a pipe", errno);
  std::vector<char*> environment;
  for (char** variable = environ; *variable; ++variable)
    if (!std::string_view(*variable).starts_with("OVERPROOF_")) environment.push_back(*variable);
  environment.push_back(nullptr);
  std::string path = program_.string();
  char* arguments[] = {path.data(), nullptr};
  child_ = ::fork();
  if (child_ < 0) throw IoError("", "cannot start a process", errno);
  if (child_ == 0) {
    ::setpgid(0, 0);
    ::dup2(questions[1], 0), ::dup2(answers[1], 1);  // its standard error is the caller's
    for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) ::signal(signal, SIG_DFL);
    ::execve(path.c_str(), arguments, environment.data());
    ::_exit(127);
  }
  ::setpgid(child_, child_);
  ::close(questions[1]), ::close(answers[1]);
  input_ = questions[0], output_ = answers[0];
}

void CommandVerifier::fail(const std::string& cause) { throw IoError(program_, cause, 0); }

Judgement CommandVerifier::judge(const Json& task, std::string_view completion) {
  Json question = task;
  question["completion"] = to_valid_utf8(completion);
  const std::string name = printable(task.value("name", "").substr(0, 100));
  const std::string line = question.dump() + "\n";
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds_);
  size_t sent = 0, newline = std::string::npos;
  while ((newline = read_.find('\n')) == std::string::npos) {
    throw_if_interrupted();
    if (std::chrono::steady_clock::now() > end) fail(fmt::format("the command that verifies gave no verdict of '{}' within {} s", name, seconds_));
    // It may answer before it has read everything.
    pollfd waits[2] = {{output_, POLLIN, 0}, {sent < line.size() ? input_ : -1, POLLOUT, 0}};
    ::poll(waits, 2, 100);
    if (waits[1].revents != 0) {
      const ssize_t n = ::send(input_, line.data() + sent, line.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) sent += size_t(n);
      else if (errno != EAGAIN && errno != EINTR) fail(fmt::format("the command that verifies ended before it was asked about '{}'", name));
    }
    if (waits[0].revents == 0) continue;
    char buffer[4096];
    const ssize_t n = ::read(output_, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(fmt::format("the command that verifies ended without a verdict of '{}'", name));
    read_.append(buffer, size_t(n));
    if (read_.size() > kMostAnswer) fail(fmt::format("the command that verifies wrote more than {} bytes about '{}'", kMostAnswer, name));
  }
  const std::string answer = read_.substr(0, newline);
  read_.erase(0, newline + 1);
  Json json;
  try {
    json = parse_json(answer, program_, -1);
  } catch (const FormatError&) {
  }
  const std::string verdict = json.is_object() && json.contains("verdict") && json["verdict"].is_string() ? json["verdict"].get<std::string>() : "";
  for (size_t i = 0; i < std::size(kVerdictNames); ++i) {
    if (verdict != kVerdictNames[i]) continue;
    const auto text = [&](const char* member) {
      return json.contains(member) && json[member].is_string() ? printable(json[member].get<std::string>().substr(0, 200)) : std::string();
    };
    return {TaskVerdict(i), text("reason"), text("answer")};
  }
  fail(fmt::format("the command that verifies answered '{}' about '{}'; expected one JSON object a line with \"verdict\": correct, wrong or unknown",
                   printable(answer.substr(0, 100)), name));
}

}  // namespace overproof
