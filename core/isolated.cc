#include "core/isolated.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

#include "core/error.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OVERPROOF_SHADOW_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OVERPROOF_SHADOW_MEMORY 1
#endif
#endif

#ifdef OVERPROOF_SHADOW_MEMORY  // terabytes of address space, which is no measure there
#include <sanitizer/allocator_interface.h>
#endif

namespace overproof {
namespace {

constexpr uint64_t kTooLarge = ~uint64_t{0};
constexpr int kChildSocket = 3;

bool send_all(int socket, const void* data, size_t bytes) {
  for (auto at = static_cast<const char*>(data); bytes > 0;) {
    const ssize_t n = ::send(socket, at, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, bytes -= size_t(n);
  }
  return true;
}

bool receive_all(int socket, void* data, size_t bytes) {
  for (auto at = static_cast<char*>(data); bytes > 0;) {
    const ssize_t n = ::recv(socket, at, bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, bytes -= size_t(n);
  }
  return true;
}

/// Bytes that this process has mapped; 0 when that is not known.
int64_t mapped_bytes() {
  long long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%lld", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return int64_t(pages) * ::sysconf(_SC_PAGESIZE);
}

#ifdef OVERPROOF_SHADOW_MEMORY
int64_t memory_left;

void limit_memory(int64_t, int64_t bytes) {
  memory_left = bytes;
  const auto taken = [](const volatile void*, size_t size) {
    if ((memory_left -= int64_t(size)) < 0) ::_exit(1);
  };
  const auto given_back = [](const volatile void* block) {
    if (block) memory_left += int64_t(__sanitizer_get_allocated_size(block));
  };
  __sanitizer_install_malloc_and_free_hooks(taken, given_back);
}
#else
void limit_memory(int64_t mapped, int64_t bytes) {
  const rlimit limit{rlim_t(mapped + bytes), rlim_t(mapped + bytes)};
  if (mapped > 0) ::setrlimit(RLIMIT_AS, &limit);
}
#endif

void limit_time(int64_t seconds) {
  const itimerval timer{{0, 0}, {time_t(seconds), 0}};
  ::setitimer(ITIMER_PROF, &timer, nullptr);  // SIGPROF ends the process
}

}  // namespace

std::string IsolatedFault::text() const {
  switch (kind) {
    case Kind::too_slow: return fmt::format("took more than {} s of processor time", limits.cpu_seconds);
    case Kind::too_large: return fmt::format("made more than {} MiB", limits.answer_bytes >> 20);
    case Kind::crashed: break;
  }
  return fmt::format("ended its process: it nests too deeply, or needs more than {} MiB of memory", limits.memory_bytes >> 20);
}

IsolatedFunction::IsolatedFunction(Function function, IsolationLimits limits) : function_(std::move(function)), limits_(limits) {}

IsolatedFunction::~IsolatedFunction() { stop(); }

void IsolatedFunction::stop() noexcept {
  if (socket_ >= 0) ::close(socket_);
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  socket_ = child_ = -1;
}

void IsolatedFunction::start() {
  const int64_t mapped = mapped_bytes();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw IoError("", "cannot make a socket pair", errno);
  const pid_t child = ::fork();
  if (child < 0) {
    const int cause = errno;
    ::close(ends[0]), ::close(ends[1]);
    throw IoError("", "cannot start a process", cause);
  }
  if (child > 0) {
    ::close(ends[1]);
    socket_ = ends[0];
    child_ = child;
    return;
  }
  // Nothing of this process is within reach of the function but its memory, of which it has a copy.
  ::signal(SIGINT, SIG_IGN);  // the parent decides; its end closes the socket
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGPROF, SIG_DFL);
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  if (::dup2(ends[1], kChildSocket) < 0) ::_exit(1);
  ::close_range(kChildSocket + 1, ~0u, 0);
  const int nothing = ::open("/dev/null", O_RDWR);
  for (const int fd : {0, 1, 2}) ::dup2(nothing, fd);
  limit_memory(mapped, limits_.memory_bytes);
  serve(kChildSocket);
}

void IsolatedFunction::serve(int socket) const {
  for (uint64_t size = 0; receive_all(socket, &size, sizeof size);) {
    try {
      std::string question(size, '\0');
      if (!receive_all(socket, question.data(), size)) break;
      limit_time(limits_.cpu_seconds);
      const std::string answer = function_(question);
      limit_time(0);
      const uint64_t bytes = answer.size() > uint64_t(limits_.answer_bytes) ? kTooLarge : answer.size();
      if (!send_all(socket, &bytes, sizeof bytes) || (bytes != kTooLarge && !send_all(socket, answer.data(), bytes))) break;
    } catch (...) {
      ::_exit(1);
    }
  }
  ::_exit(0);
}

void IsolatedFunction::fail() {
  int status = 0;
  ::shutdown(socket_, SHUT_RDWR);
  while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
  child_ = -1;
  stop();
  const bool slow = WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF;
  throw IsolatedFault{slow ? IsolatedFault::Kind::too_slow : IsolatedFault::Kind::crashed, limits_};
}

std::string IsolatedFunction::ask(std::string_view question) {
  const std::lock_guard lock(mutex_);
  if (child_ < 0) start();
  uint64_t size = question.size();
  if (!send_all(socket_, &size, sizeof size) || !send_all(socket_, question.data(), question.size()) || !receive_all(socket_, &size, sizeof size))
    fail();
  if (size == kTooLarge) throw IsolatedFault{IsolatedFault::Kind::too_large, limits_};
  if (size > uint64_t(limits_.answer_bytes)) fail();
  std::string answer(size, '\0');
  if (!receive_all(socket_, answer.data(), size)) fail();
  return answer;
}

}  // namespace overproof
