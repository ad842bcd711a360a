#include "verify/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/printable.h"
#include "verify/seccomp_filter.h"

namespace overproof {
namespace {

constexpr uid_t kNobody = 65534;
constexpr int kInfo = 9, kFirstData = 10;  // descriptors that bwrap writes to, and that it reads from
constexpr auto kLook = std::chrono::milliseconds(20);
constexpr int64_t kOwnProcesses = 4;  // of bwrap, below the one that was started
/// What bwrap itself fails with, and a command that is not there.
constexpr int kCannotExecute = 127;

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) close(), fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  ~Descriptor() { close(); }
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

[[noreturn]] void fail(const std::string& cause, int error = 0) { throw IoError("bwrap", cause, error); }

/// A file in memory that cannot be changed, at its beginning.
Descriptor memory_file(std::string_view content) {
  Descriptor file(::memfd_create("overproof-sandbox", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (file.get() < 0) fail("cannot make a file in memory for the sandbox", errno);
  for (size_t at = 0; at < content.size();) {
    const ssize_t n = ::write(file.get(), content.data() + at, content.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("cannot write a file in memory for the sandbox", errno);
    at += size_t(n);
  }
  ::lseek(file.get(), 0, SEEK_SET);
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    fail("cannot seal a file in memory for the sandbox", errno);
  return file;
}

std::array<Descriptor, 2> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("cannot make a pipe for the sandbox", errno);
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

/// What is written to a pipe until it is closed, or it is late.
std::string read_all(int pipe, std::chrono::steady_clock::time_point end) {
  std::string text;
  char buffer[4096];
  while (std::chrono::steady_clock::now() < end && text.size() < (1 << 20)) {
    pollfd wait{pipe, POLLIN, 0};
    if (::poll(&wait, 1, int(kLook.count())) <= 0) continue;
    const ssize_t n = ::read(pipe, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(buffer, size_t(n));
  }
  return text;
}

/// Resident bytes and number of the descendants of a process.
struct Tree {
  int64_t bytes = 0, processes = 0;
};

void add_descendants(pid_t parent, Tree& tree, int depth = 0) {
  if (depth > 100 || tree.processes > 4096) return;
  char name[64];
  std::snprintf(name, sizeof name, "/proc/%d/task/%d/children", int(parent), int(parent));
  std::FILE* file = std::fopen(name, "re");
  if (!file) return;
  std::vector<pid_t> children;
  for (int child = 0; std::fscanf(file, "%d", &child) == 1;) children.push_back(child);
  std::fclose(file);
  for (const pid_t child : children) {
    ++tree.processes;
    std::snprintf(name, sizeof name, "/proc/%d/statm", int(child));
    if (std::FILE* memory = std::fopen(name, "re")) {
      long long mapped = 0, resident = 0;
      if (std::fscanf(memory, "%lld %lld", &mapped, &resident) == 2) tree.bytes += resident * ::sysconf(_SC_PAGESIZE);
      std::fclose(memory);
    }
    add_descendants(child, tree, depth + 1);
  }
}

/// The process of bwrap that was started, and the first one of the sandbox's process namespace: when that has ended, all in it have.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ > 0) kill(), wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }

  /// `info`: what bwrap wrote to its --info-fd; nothing where it failed before.
  void note_first(const std::string& info) {
    const size_t at = info.find("\"child-pid\":");
    if (at == std::string::npos) return;
    const int first = std::atoi(info.c_str() + at + 12);
    if (first > 1) first_ = Descriptor(int(::syscall(SYS_pidfd_open, first, 0)));  // -1: it has ended
  }

  void kill() const {
    if (first_.get() >= 0) ::syscall(SYS_pidfd_send_signal, first_.get(), SIGKILL, nullptr, 0);
    else ::kill(pid_, SIGKILL);  // --die-with-parent
  }
  /// The status of bwrap, after every process of the sandbox has ended.
  int wait() {
    if (first_.get() < 0) return wait_for_bwrap();
    // A daemon outlives the program, and bwrap ends with the program.
    pollfd gone{first_.get(), POLLIN, 0};
    const int status = wait_for_bwrap();
    kill();
    while (::poll(&gone, 1, -1) < 0 && errno == EINTR) {
    }
    first_.close();
    return status;
  }

 private:
  int wait_for_bwrap() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }

  pid_t pid_;
  Descriptor first_;
};

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() < 100 && name[0] != '.' && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

}  // namespace

Sandbox::Sandbox(const SandboxLimits& limits, std::string bwrap) : limits_(limits), bwrap_(std::move(bwrap)) {
  if (seccomp_filter().empty()) fail("cannot make a sandbox: there is no list of system calls for this kind of processor, and programs are not run without one");
  const SandboxRun run = this->run({"true"}, {}, "");
  if (run.end == SandboxRun::End::exited && run.exit_code == 0) return;
  const std::string said = printable(run.errors.substr(0, 300));
  fail(fmt::format("cannot make a sandbox, and programs are not run without one: {}",
                   run.exit_code == kCannotExecute && said.empty()
                       ? fmt::format("'{}' is not there; install the package bubblewrap", bwrap_)
                       : fmt::format("{} ended with {}{}{}. The kernel has to allow user namespaces: see kernel.unprivileged_userns_clone, "
                                     "user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns",
                                     bwrap_, run.exit_code, said.empty() ? "" : ": ", said)));
}

SandboxRun Sandbox::run(const std::vector<std::string>& command, const std::map<std::string, std::string>& files, const std::string& input) const {
  const std::vector<sock_filter> filter = seccomp_filter();
  std::vector<Descriptor> data;
  data.push_back(memory_file({reinterpret_cast<const char*>(filter.data()), filter.size() * sizeof(sock_filter)}));
  const auto seconds = int64_t(std::ceil(limits_.seconds));
  std::vector<std::string> words = {bwrap_, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
                                    "--disable-userns", "--die-with-parent", "--new-session", "--info-fd", std::to_string(kInfo), "--hostname", "sandbox", "--cap-drop", "ALL",
                                    "--uid", "65534", "--gid", "65534", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8",
                                    "--setenv", "HOME", "/tmp", "--ro-bind", "/usr", "/usr"};
  for (const std::string name : {"bin", "sbin", "lib", "lib32", "lib64"}) {
    std::error_code none;
    const fs::path place = fs::path("/") / name;
    if (fs::is_symlink(place, none)) words.insert(words.end(), {"--symlink", fs::read_symlink(place, none).string(), place.string()});
    else if (fs::is_directory(place, none)) words.insert(words.end(), {"--ro-bind", place.string(), place.string()});
  }
  // Programs such as javac and cc are links to there.
  for (const char* place : {"/etc/alternatives", "/etc/ld.so.cache"}) words.insert(words.end(), {"--ro-bind-try", place, place});
  words.insert(words.end(), {"--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--size", std::to_string(limits_.file_bytes), "--tmpfs", "/tmp"});
  for (const auto& [name, content] : files) {
    OVERPROOF_CHECK(is_plain_name(name));
    words.insert(words.end(), {"--perms", "0444", "--ro-bind-data", std::to_string(kFirstData + int(data.size())), "/tmp/" + name});
    data.push_back(memory_file(content));
  }
  words.insert(words.end(), {"--remount-ro", "/", "--chdir", "/tmp", "--seccomp", std::to_string(kFirstData), "--", "/usr/bin/prlimit"});
  words.push_back(fmt::format("--nproc={}", limits_.processes));
  words.push_back(fmt::format("--as={}", limits_.memory_bytes));
  words.push_back(fmt::format("--cpu={}", seconds + 1));
  words.push_back(fmt::format("--fsize={}", limits_.file_bytes));
  words.insert(words.end(), {"--core=0", "--nofile=256", "--"});
  words.insert(words.end(), command.begin(), command.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  const Descriptor stdin_file = memory_file(input);
  auto out = make_pipe(), errors = make_pipe(), info = make_pipe();
  // Its first process keeps the environment that bwrap was started with, where the program can read it.
  std::string path = "PATH=/usr/bin:/bin";
  char* environment[] = {path.data(), nullptr};
  const bool as_root = ::geteuid() == 0;
  const pid_t pid = ::fork();
  if (pid < 0) fail("cannot start a process for the sandbox", errno);
  if (pid == 0) {  // only calls that are safe after a fork of a process with threads
    ::dup2(stdin_file.get(), 0), ::dup2(out[1].get(), 1), ::dup2(errors[1].get(), 2);
    // First above all places that are filled, then to them: none is closed that is still to be moved.
    const int above = kFirstData + int(data.size());
    for (Descriptor& file : data) file = Descriptor(::fcntl(file.get(), F_DUPFD, above));
    info[1] = Descriptor(::fcntl(info[1].get(), F_DUPFD, above));
    ::dup2(info[1].get(), kInfo);
    for (size_t i = 0; i < data.size(); ++i) ::dup2(data[i].get(), kFirstData + int(i));
    ::close_range(3, kInfo - 1, 0);
    ::close_range(unsigned(above), ~0u, 0);
    for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) ::signal(signal, SIG_DFL);
    ::setpgid(0, 0);  // an interrupt from the terminal reaches the caller, who ends the sandbox
    // The kernel does not bound the number of root's processes. In a namespace without that user (EINVAL), the loop below does alone.
    if (as_root && ::setresgid(kNobody, kNobody, kNobody) == 0 && (::setgroups(0, nullptr) != 0 || ::setresuid(kNobody, kNobody, kNobody) != 0))
      ::_exit(kCannotExecute - 1);
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    ::execvpe(arguments[0], arguments.data(), environment);
    ::_exit(kCannotExecute);
  }
  Child child(pid);
  out[1].close(), errors[1].close(), info[1].close();
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(int64_t(limits_.seconds * 1000));
  child.note_first(read_all(info[0].get(), end));

  SandboxRun run;
  int64_t read = 0;
  const auto stop = [&](SandboxRun::End why) {
    run.end = why;
    child.kill();
  };
  char buffer[16384];
  while ((out[0].get() >= 0 || errors[0].get() >= 0) && run.end == SandboxRun::End::exited) {
    throw_if_interrupted();
    pollfd waits[2] = {{out[0].get(), POLLIN, 0}, {errors[0].get(), POLLIN, 0}};
    ::poll(waits, 2, int(kLook.count()));
    for (const int i : {0, 1}) {
      Descriptor& from = i == 0 ? out[0] : errors[0];
      if (from.get() < 0 || waits[i].revents == 0) continue;
      const ssize_t n = ::read(from.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        from.close();
        continue;
      }
      const auto kept = size_t(std::min<int64_t>(n, limits_.output_bytes - std::min(read, limits_.output_bytes)));
      (i == 0 ? run.output : run.errors).append(buffer, kept);
      if ((read += n) > limits_.output_bytes) stop(SandboxRun::End::too_much_output);
    }
    if (run.end != SandboxRun::End::exited) break;
    if (std::chrono::steady_clock::now() > end) stop(SandboxRun::End::out_of_time);
    Tree tree;
    add_descendants(child.pid(), tree);
    if (tree.bytes > limits_.memory_bytes) stop(SandboxRun::End::out_of_memory);
    if (tree.processes > limits_.processes + kOwnProcesses) stop(SandboxRun::End::too_many_processes);
  }
  // A program may close its outputs and continue.
  for (siginfo_t info{}; run.end == SandboxRun::End::exited;) {
    throw_if_interrupted();
    if (::waitid(P_PID, id_t(child.pid()), &info, WEXITED | WNOWAIT | WNOHANG) != 0 || info.si_pid != 0) break;
    if (std::chrono::steady_clock::now() > end) stop(SandboxRun::End::out_of_time);
    ::usleep(2000);
  }
  const int status = child.wait();
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return run;
}

}  // namespace overproof
