// Programs that try to get out of the sandbox, one way a case. They are Python, which calls the kernel directly.
#include "verify/sandbox.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>

#include "core/error.h"
#include "tests/skip.h"
#include "tests/support.h"

using namespace overproof;
using End = SandboxRun::End;

namespace {

/// Why there is no sandbox on this machine; "" where there is.
const std::string& refusal() {
  static const std::string cause = [] {
    try {
      Sandbox sandbox;
      return std::string();
    } catch (const IoError& e) {
      return std::string(e.what());
    }
  }();
  return cause;
}

#define NEEDS_SANDBOX \
  if (!refusal().empty()) SKIP_CASE(refusal())

SandboxRun python(const std::string& program, SandboxLimits limits = {}, const std::string& input = "") {
  static const std::string lead =
      "import ctypes, os, socket, sys, time, errno\n"
      "libc = ctypes.CDLL(None, use_errno=True)\n"
      "def call(number, *arguments):\n"
      "    return -ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0\n";
  return Sandbox(limits).run({"python3", "-I", "main.py"}, {{"main.py", lead + program}}, input);
}

/// Processes of this machine, whatever their namespace, with `mark` in their command line.
int processes_with(const std::string& mark) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::FILE* file = std::fopen((entry.path() / "cmdline").c_str(), "re");
    if (!file) continue;
    char buffer[8192];
    const size_t n = std::fread(buffer, 1, sizeof buffer, file);
    std::fclose(file);
    count += std::string(buffer, n).find(mark) != std::string::npos;
  }
  return count;
}

}  // namespace

TEST_CASE("a program in the sandbox runs, reads its input and ends with its exit code", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const SandboxRun run = python("sys.stderr.write('e'); print(sum(map(int, sys.stdin.read().split()))); sys.exit(3)", {}, "19 23\n");
  CHECK(run.end == End::exited);
  CHECK(run.exit_code == 3);
  CHECK(run.output == "42\n");
  CHECK(run.errors == "e");
  CHECK(python("os.kill(os.getpid(), 9)").exit_code == 137);
}

TEST_CASE("without namespaces nothing runs", "[hardware-namespaces]") {
  const TempFolder folder;
  const fs::path mark = folder / "ran";
  const fs::path fake = write_text(folder / "bwrap", "#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n");
  fs::permissions(fake, fs::perms::owner_all | fs::perms::others_exec | fs::perms::others_read);
  fs::permissions(folder.path(), fs::perms::owner_all | fs::perms::others_exec);
  CHECK_THROWS_WITH(Sandbox({}, fake.string()), Catch::Contains("programs are not run without one") && Catch::Contains("No permissions to create a new namespace") &&
                                                    Catch::Contains("user.max_user_namespaces"));
  CHECK_THROWS_WITH(Sandbox({}, "/no/such/bwrap"), Catch::Contains("install the package bubblewrap"));
  CHECK_THROWS_AS(Sandbox({}, fake.string()), IoError);
}

TEST_CASE("the sandbox has no network", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(::listen(listener, 1) == 0);
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  const int abstract = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const std::string word = "overproof-test-" + std::to_string(::getpid());
  word.copy(name.sun_path + 1, word.size());
  REQUIRE(::bind(abstract, reinterpret_cast<sockaddr*>(&name), socklen_t(offsetof(sockaddr_un, sun_path) + 1 + word.size())) == 0);
  REQUIRE(::listen(abstract, 1) == 0);
  const SandboxRun run = python(
      "def reach(family, place):\n"
      "    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(2)\n"
      "    try: s.connect(place)\n"
      "    except OSError as e: return 'no'\n"
      "    return 'REACHED'\n"
      "print(reach(socket.AF_INET, ('127.0.0.1', " + std::to_string(ntohs(address.sin_port)) + ")))\n"
      "print(reach(socket.AF_INET, ('8.8.8.8', 53)), reach(socket.AF_INET6, ('2001:4860:4860::8888', 53)))\n"
      "print(reach(socket.AF_UNIX, '\\0" + word + "'))\n"
      "for family in (socket.AF_PACKET, socket.AF_NETLINK, 38):\n"
      "    try: socket.socket(family, socket.SOCK_RAW); print('OPENED')\n"
      "    except PermissionError: print('no')\n");
  ::close(listener), ::close(abstract);
  CHECK(run.output == "no\nno no\nno\nno\nno\nno\n");
  CHECK(run.exit_code == 0);
}

TEST_CASE("the sandbox writes nowhere but in its /tmp, which is not this machine's", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const SandboxRun run = python(
      "for place in ('/', '/usr', '/usr/bin', '/usr/local', '/etc', '/dev', '/dev/shm', '/proc', '/proc/sys/kernel', '/home', '/root', '/var/tmp', '/sys'):\n"
      "    try: open(place + '/overproof-escaped', 'w'); print('WROTE', place)\n"
      "    except OSError: pass\n"
      "for place in ('main.py', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/usr/bin/python3', '/dev/mem', '/dev/kmsg'):\n"
      "    try: open(place, 'a').write('x'); print('WROTE', place)\n"
      "    except OSError: pass\n"
      "open('/tmp/overproof-escaped', 'w').write('x'); print(open('/tmp/overproof-escaped').read())\n"
      "try: os.pwrite(0, b'x', 0); print('WROTE input')\n"
      "except OSError: pass\n", {}, "abc");
  CHECK(run.output == "x\n");
  CHECK(run.errors.empty());
  CHECK_FALSE(fs::exists("/tmp/overproof-escaped"));
}

TEST_CASE("the sandbox sees neither keys, homes, environment nor processes of this machine", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const TempFolder folder;
  const fs::path key = write_text(folder / "key.pem", "SECRET-OF-A-KEY");
  fs::permissions(folder.path(), fs::perms::all);
  fs::permissions(key, fs::perms::all);
  ::setenv("OVERPROOF_KEY", key.c_str(), 1);
  ::setenv("SECRET_OF_THE_ENVIRONMENT", "SECRET-OF-A-VARIABLE", 1);
  const SandboxRun run = python(
      "try: print(open('" + key.string() + "').read())\n"
      "except OSError: print('no')\n"
      "print(sorted(os.environ))\n"
      "print(sorted(os.listdir('/')))\n"
      "pids = [p for p in os.listdir('/proc') if p.isdigit()]\n"
      "print(len(pids) < 10)\n"
      "for p in pids:\n"
      "    for part in ('environ', 'cmdline', 'maps', 'mountinfo'):\n"
      "        try: text = open(f'/proc/{p}/{part}', 'rb').read()\n"
      "        except OSError: continue\n"
      "        if b'SECRET' in text or b'key.pem' in text: print('FOUND', p, part)\n"
      "    for part in ('root', 'cwd'):\n"
      "        try: names = os.listdir(f'/proc/{p}/{part}')\n"
      "        except OSError: continue\n"
      "        if set(names) & {'home', 'root', 'var', 'work'}: print('FOUND', p, part)\n"
      "try: os.kill(" + std::to_string(::getpid()) + ", 0); print('REACHED')\n"
      "except OSError as e: print(errno.errorcode[e.errno])\n"
      "for fd in range(3, 256):\n"
      "    try: os.fstat(fd); print('OPEN', fd, os.readlink(f'/proc/self/fd/{fd}'))\n"
      "    except OSError: pass\n");
  ::unsetenv("OVERPROOF_KEY"), ::unsetenv("SECRET_OF_THE_ENVIRONMENT");
  CHECK(run.errors.empty());
  CHECK(run.output.starts_with("no\n['HOME', 'LANG', 'LC_CTYPE', 'PATH', 'PWD']\n") + run.output.starts_with("no\n['HOME', 'LANG', 'PATH', 'PWD']\n") == 1);
  CHECK(run.output.find("SECRET") == std::string::npos);
  CHECK(run.output.find("FOUND") == std::string::npos);
  CHECK(run.output.find("OPEN") == std::string::npos);
  CHECK(run.output.find("'home'") == std::string::npos);
  CHECK(run.output.find("'root'") == std::string::npos);
  CHECK(run.output.find("True\nESRCH\n") != std::string::npos);
}

TEST_CASE("a fork bomb is bounded and gone at the end", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const std::string mark = "fork-bomb-" + std::to_string(::getpid());
  const auto begin = std::chrono::steady_clock::now();
  const SandboxRun run = python(
      "os.environ['x'] = 'y'\n"
      "most = 0\n"
      "while True:\n"
      "    try:\n"
      "        if os.fork() == 0: os.execv('/usr/bin/sleep', ['" + mark + "', '1000'])\n"
      "        most += 1\n"
      "    except OSError as e:\n"
      "        print(most, flush=True); time.sleep(1000)\n",
      {.seconds = 10, .processes = 12});
  CHECK(run.end == End::out_of_time);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(900));  // its processes sleep for 1000
  REQUIRE(!run.output.empty());
  CHECK(std::stoi(run.output) <= 12);
  CHECK(processes_with(mark) == 0);
}

TEST_CASE("daemons do not survive their program", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const std::string mark = "daemon-" + std::to_string(::getpid());
  const SandboxRun run = python(
      "if os.fork() == 0:\n"
      "    os.setsid()\n"
      "    if os.fork() == 0:\n"
      "        for fd in range(3): os.close(fd)\n"
      "        os.execv('/usr/bin/sleep', ['" + mark + "', '1000'])\n"
      "    os._exit(0)\n"
      "os.wait(); time.sleep(0.2); print('left one')\n");
  CHECK(run.end == End::exited);
  CHECK(run.exit_code == 0);
  CHECK(run.output == "left one\n");
  CHECK(processes_with(mark) == 0);
}

TEST_CASE("output without end is cut, and the program ended", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const SandboxRun run = python("while True: os.write(1, b'x' * 4096); os.write(2, b'y' * 4096)\n", {.output_bytes = 50'000});
  CHECK(run.end == End::too_much_output);
  CHECK(run.output.size() + run.errors.size() == 50'000);
}

TEST_CASE("memory is bounded in one process and in many", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const SandboxLimits limits{.seconds = 20, .memory_bytes = int64_t{200} << 20};
  const SandboxRun one = python("x = bytearray(400 << 20); print('GOT IT')\n", limits);
  CHECK(one.end == End::exited);
  CHECK(one.exit_code == 1);
  CHECK(one.errors.find("MemoryError") != std::string::npos);
  const SandboxRun many = python(
      "for i in range(6):\n"
      "    if os.fork() == 0:\n"
      "        x = bytearray(b'x') * (80 << 20); time.sleep(1000)\n"
      "time.sleep(1000)\n", limits);
  CHECK(many.end == End::out_of_memory);
  // Files in /tmp are memory, too.
  const SandboxRun files = python(
      "try:\n"
      "    for i in range(100): open(f'f{i}', 'wb').write(bytes(1 << 20))\n"
      "except OSError as e: print(i, errno.errorcode[e.errno])\n"
      "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
      "try: os.posix_fallocate(os.open('/tmp/large', os.O_CREAT | os.O_RDWR), 0, 1 << 30); print('GOT IT')\n"
      "except OSError as e: print('no')\n",
      {.file_bytes = int64_t{8} << 20});
  CHECK(files.output == "8 ENOSPC\nno\n");
}

TEST_CASE("a program that runs, sleeps or hides its outputs is ended in time", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  for (const char* program : {"while True: pass\n", "time.sleep(1000)\n", "os.close(1); os.close(2)\nos.close(0); time.sleep(1000)\n",
                              "import signal\nfor s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(1000)\n"}) {
    const auto begin = std::chrono::steady_clock::now();
    const SandboxRun run = python(program, {.seconds = 1});
    CHECK(run.end == End::out_of_time);
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(900));  // or never
  }
}

TEST_CASE("ptrace, namespaces, mounts and other parts of the kernel are refused", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const SandboxRun run = python(
      "import platform\n"
      "x86 = platform.machine() == 'x86_64'\n"
      "calls = {'ptrace': (101, 117), 'unshare': (272, 97), 'mount': (165, 40), 'keyctl': (250, 219), 'bpf': (321, 280), 'perf_event_open': (298, 241),\n"
      "         'userfaultfd': (323, 282), 'io_uring_setup': (425, 425), 'setns': (308, 268), 'chroot': (161, 51), 'process_vm_readv': (310, 270),\n"
      "         'add_key': (248, 217), 'open_by_handle_at': (304, 265)}\n"
      "for name, (a, b) in calls.items():\n"
      "    ctypes.set_errno(0)\n"
      "    result = call(a if x86 else b, 0x10000000 if name == 'unshare' else 0, 0, 0, 0)\n"
      "    if result != -errno.EPERM: print(name, result)\n"
      "flags = 0x10000000 | 17\n"  // CLONE_NEWUSER | SIGCHLD
      "pid = libc.syscall(56 if x86 else 220, flags, 0, 0, 0, 0)\n"
      "if pid == 0: os._exit(0)\n"
      "print('clone', pid)\n"
      "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp:'))])\n");
  CHECK(run.output == "clone -1\n['0000000000000000', '0000000000000000', '1', '2']\n");
  CHECK(run.errors.empty());
}

TEST_CASE("signals reach no process outside", "[hardware-namespaces]") {
  NEEDS_SANDBOX;
  const SandboxRun run = python("try: os.kill(1, 9)\nexcept OSError: pass\nos.kill(-1, 15) if os.fork() else time.sleep(5)\nprint('here')\n");
  CHECK(run.output.starts_with("here"));
  CHECK(processes_with("test_verify") >= 1);
}
