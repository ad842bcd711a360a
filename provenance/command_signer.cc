#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>

#include "core/direct_file.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "provenance/key_internal.h"

namespace overproof {
namespace {

using Clock = std::chrono::steady_clock;

/// The longest signature, of P-521 in DER, has 139 bytes.
constexpr size_t kMostOutput = 1024;

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw IoError("pipe", "cannot be made", errno);
    read = ends[0];
    write = ends[1];
  }
  ~Pipe() {
    close_end(read);
    close_end(write);
  }
  static void close_end(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
};

/// A program that stops reading is an error to report; SIGPIPE would end this process.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~WithoutSigpipe() {
    const timespec now{};
    while (sigtimedwait(&pipe_, nullptr, &now) > 0) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  const sigset_t& before() const { return before_; }

 private:
  sigset_t pipe_, before_;
};

/// The running program. Ended and waited for, come what may.
class Child {
 public:
  Child(const std::vector<std::string>& words, Pipe& in, Pipe& out, const sigset_t& mask) {
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&actions, in.read, 0);
    posix_spawn_file_actions_adddup2(&actions, out.write, 1);
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &mask);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    const int failed = ::posix_spawnp(&pid_, arguments[0], &actions, &attributes, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    if (failed) {
      pid_ = -1;
      throw UsageError(fmt::format("--sign-with: cannot start '{}': {}", words[0], std::strerror(failed)));
    }
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    wait(0);
  }
  /// Its status, if it has ended.
  std::optional<int> wait(int flags) {
    int status = 0;
    pid_t done = 0;
    while ((done = ::waitpid(pid_, &status, flags)) < 0 && errno == EINTR) {
    }
    if (done == 0) return std::nullopt;
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
};

class CommandSigner : public Signer {
 public:
  CommandSigner(std::vector<std::string> words, PublicKey key, std::chrono::milliseconds timeout)
      : words_(std::move(words)), key_(std::move(key)), timeout_(timeout) {}

  std::string sign(std::string_view message) const override {
    const std::string signature = run(message);
    if (!key_.verify(message, signature))
      fail(
          fmt::format("returned {} bytes that are no signature of its input by key {} ({}); it must sign the input itself, not a "
                      "digest of it, "
                      "and write DER",
                      signature.size(), key_.hint(), curve_name(key_.curve())));
    return signature;
  }

  std::string private_pem(std::string_view) const override { throw UsageError("the private key is with the program that signs"); }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw ProvenanceError(fmt::format("--sign-with: '{}' {}", words_[0], what));
  }

  std::string run(std::string_view message) const {
    const WithoutSigpipe guard;
    Pipe in, out;
    Child child(words_, in, out, guard.before());
    Pipe::close_end(in.read);
    Pipe::close_end(out.write);
    ::fcntl(in.write, F_SETFL, O_NONBLOCK);
    ::fcntl(out.read, F_SETFL, O_NONBLOCK);
    const auto deadline = Clock::now() + timeout_;
    std::string answer;
    for (bool open = true; open;) {
      throw_if_interrupted();
      if (Clock::now() >= deadline) fail(fmt::format("gave no answer within {:g} s (--sign-timeout)", double(timeout_.count()) / 1000));
      pollfd polled[2] = {{out.read, POLLIN, 0}, {in.write, POLLOUT, 0}};
      if (::poll(polled, in.write >= 0 ? 2 : 1, 100) < 0 && errno != EINTR) throw IoError(words_[0], "cannot wait for it", errno);
      if (in.write >= 0 && polled[1].revents) {
        const ssize_t put = ::write(in.write, message.data(), message.size());
        if (put > 0) message.remove_prefix(size_t(put));
        // It may stop reading early; its signature shows whether it read enough.
        if (message.empty() || (put < 0 && errno != EAGAIN && errno != EINTR)) Pipe::close_end(in.write);
      }
      if (polled[0].revents) {
        char buffer[kMostOutput];
        const ssize_t got = ::read(out.read, buffer, sizeof buffer);
        if (got > 0) answer.append(buffer, size_t(got));
        else if (got == 0 || (errno != EAGAIN && errno != EINTR)) open = false;
        if (answer.size() > kMostOutput) fail(fmt::format("wrote more than {} bytes, which is no signature", kMostOutput));
      }
    }
    Pipe::close_end(in.write);
    std::optional<int> status;
    while (!(status = child.wait(WNOHANG))) {
      throw_if_interrupted();
      if (Clock::now() >= deadline) fail(fmt::format("did not end within {:g} s (--sign-timeout)", double(timeout_.count()) / 1000));
      const timespec pause{0, 5'000'000};
      ::nanosleep(&pause, nullptr);
    }
    if (WIFSIGNALED(*status)) fail(fmt::format("was ended by signal {}", WTERMSIG(*status)));
    if (WEXITSTATUS(*status) != 0) fail(fmt::format("failed with exit code {}", WEXITSTATUS(*status)));
    return answer;
  }

  std::vector<std::string> words_;
  PublicKey key_;
  std::chrono::milliseconds timeout_;
};

}  // namespace

std::vector<std::string> split_command(const std::string& command) {
  std::vector<std::string> words;
  bool inside = false;  // a word, even an empty one in quotes
  char quote = 0;
  for (size_t i = 0; i < command.size(); ++i) {
    const char c = command[i];
    if (quote == 0 && (c == ' ' || c == '\t' || c == '\n')) {
      inside = false;
      continue;
    }
    if (!inside) words.emplace_back();
    inside = true;
    if (quote == 0 && (c == '\'' || c == '"')) quote = c;
    else if (c == quote) quote = 0;
    else if (c == '\\' && quote != '\'' && i + 1 < command.size()) words.back() += command[++i];
    else words.back() += c;
  }
  if (quote != 0) throw UsageError(fmt::format("--sign-with: a quote is open at the end of '{}'", command));
  if (words.empty() || words[0].empty()) throw UsageError("--sign-with: names no program");
  return words;
}

std::shared_ptr<const Signer> make_command_signer(const std::string& command, const PublicKey& key, std::chrono::milliseconds timeout) {
  return std::make_shared<CommandSigner>(split_command(command), key, timeout);
}

}  // namespace overproof
