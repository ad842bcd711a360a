#include "pipeline/replace_folder.h"

#include <catch2/catch.hpp>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <thread>
#include <vector>

#include "core/error.h"
#include "pipeline/file_lock.h"
#include "tests/support.h"

using namespace overproof;

namespace {

void write_version(const fs::path& folder, const std::string& version) {
  fs::create_directories(folder / "sub");
  for (const char* name : {"a.txt", "b.txt", "sub/c.txt"}) std::ofstream(folder / name) << version;
}

/// The one version that all files of the folder have; "" where the folder is missing, incomplete or mixed.
std::string version_of(const fs::path& folder) {
  std::string version;
  for (const char* name : {"a.txt", "b.txt", "sub/c.txt"}) {
    if (!fs::exists(folder / name)) return "";
    const std::string text = read_file(folder / name);
    if (!version.empty() && text != version) return "";
    version = text;
  }
  return version;
}

/// Runs `action` in a child process, which stops before and after each of its system calls, and kills it at stop number `stop` (from
/// 0). Returns false when the action ends before it.
bool killed_at(int64_t stop, const std::function<void()>& action) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(3);
    ::raise(SIGSTOP);
    action();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSTOPPED(status));
  REQUIRE(::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0);
  for (int64_t stops = 0;;) {
    REQUIRE(::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) == 0);
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status)) {
      REQUIRE(WEXITSTATUS(status) == 0);
      return false;
    }
    REQUIRE(WIFSTOPPED(status));
    if (WSTOPSIG(status) == (SIGTRAP | 0x80) && stops++ == stop) {
      ::kill(child, SIGKILL);
      REQUIRE(::waitpid(child, &status, 0) == child);
      return true;
    }
  }
}

}  // namespace

TEST_CASE("a kill at any system call of a replacement leaves the old or the new folder, complete") {
  const bool exchange = GENERATE(true, false);
  INFO((exchange ? "exchange" : "two renames"));
  bool old_seen = false, new_seen = false;
  int64_t stops = 0;
  for (bool killed = true; killed; ++stops) {
    const TempFolder folder;
    const fs::path out = folder / "out", finished = folder / ".out.partial";
    write_version(out, "old");
    write_version(finished, "new");
    killed = killed_at(stops, [&] {
      if (exchange) replace_folder(finished, out);
      else replace_by_two_renames(finished, out);
    });
    INFO("killed at stop " << stops);
    if (!exchange) restore_previous(out);  // as the next run does first
    const std::string version = version_of(out);
    CHECK((version == "old" || version == "new"));
    (version == "old" ? old_seen : new_seen) = true;
    CHECK_FALSE(fs::exists(previous_folder(out)));
    if (!killed) CHECK((version == "new" && !fs::exists(finished)));
  }
  CHECK((old_seen && new_seen));
  CHECK(stops > 10);
}

TEST_CASE("a folder moves to a free name, and an exchange leaves nothing else") {
  const TempFolder folder;
  write_version(folder / ".out.partial", "first");
  replace_folder(folder / ".out.partial", folder / "out");
  CHECK(version_of(folder / "out") == "first");
  write_version(folder / ".out.partial", "second");
  replace_folder(folder / ".out.partial", folder / "out");
  CHECK(version_of(folder / "out") == "second");
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);
  CHECK_THROWS_AS(replace_folder(folder / "missing", folder / "out"), IoError);
  CHECK(version_of(folder / "out") == "second");
}

TEST_CASE("a lock is held by one process at a time, however they come and go") {
  const TempFolder folder;
  const fs::path file = folder / ".out.lock";
  std::atomic<int> inside{0}, taken{0}, refused{0}, shared{0};
  std::vector<std::thread> threads;  // flock belongs to the open file, so threads exclude one another as processes do
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 3000; ++i) try {
          const FileLock lock(file, FileLock::Busy::fails, folder / "out", "busy");
          if (inside.fetch_add(1) != 0) ++shared;
          ++taken;
          std::this_thread::yield();
          inside.fetch_sub(1);
        } catch (const IoError&) {
          ++refused;
        }
    });
  for (std::thread& t : threads) t.join();
  CHECK(shared == 0);
  CHECK(taken > 0);
  CHECK(taken + refused == 18000);
  CHECK_FALSE(fs::exists(file));
}

TEST_CASE("a lock that another process holds is an I/O error that names the artifact") {
  const TempFolder folder;
  const FileLock held(folder / ".out.lock", FileLock::Busy::fails, folder / "out", "busy");
  CHECK_THROWS_WITH(FileLock(folder / ".out.lock", FileLock::Busy::fails, folder / "out", "another process is building it"),
                    Catch::Equals((folder / "out").string() + ": another process is building it"));
  CHECK(fs::exists(folder / ".out.lock"));
}
