// libkill_at_write.so, for LD_PRELOAD: sends the program a signal at its n-th write to a regular file, so that tests stop it at
// the same place on a fast machine and on a slow one.
//
//   KILL_AT_WRITE=N        number of the write, counted by process image (an exec starts over). The signal comes before the bytes
//   KILL_AFTER_RENAME=F    instead: at the first write after a rename to a file with the name F
//   KILL_SIGNAL=S          number of the signal; default SIGKILL
//   KILL_COUNT_TO=FILE     at exit, writes the number of writes so far into FILE
//
// Writes to pipes and terminals are not counted: how many there are depends on the reader.

#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

const char* text(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value ? value : nullptr;
}

struct State {
  const long at = text("KILL_AT_WRITE") ? std::atol(text("KILL_AT_WRITE")) : 0;
  const int signal = text("KILL_SIGNAL") ? std::atoi(text("KILL_SIGNAL")) : SIGKILL;
  const char* const renamed = text("KILL_AFTER_RENAME");
  std::atomic<long> writes = 0;
  std::atomic<bool> armed = false;

  ~State() {
    if (const char* path = text("KILL_COUNT_TO"))
      if (FILE* file = std::fopen(path, "w")) {
        std::fprintf(file, "%ld\n", writes.load());
        std::fclose(file);
      }
  }
};

State& state() {
  static State s;
  return s;
}

void before_write(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return;
  State& s = state();
  if (++s.writes == s.at || s.armed.exchange(false)) ::kill(::getpid(), s.signal);
}

void after_rename(int status, const char* to) {
  State& s = state();
  const char* slash = std::strrchr(to, '/');
  if (status == 0 && s.renamed && std::strcmp(slash ? slash + 1 : to, s.renamed) == 0) s.armed = true;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* from, size_t bytes) {
  static auto* const real = next<decltype(write)>("write");
  before_write(fd);
  return real(fd, from, bytes);
}

ssize_t writev(int fd, const iovec* parts, int count) {
  static auto* const real = next<decltype(writev)>("writev");
  before_write(fd);
  return real(fd, parts, count);
}

ssize_t pwrite(int fd, const void* from, size_t bytes, off_t at) {
  static auto* const real = next<decltype(pwrite)>("pwrite");
  before_write(fd);
  return real(fd, from, bytes, at);
}

ssize_t pwrite64(int fd, const void* from, size_t bytes, off64_t at) {
  static auto* const real = next<decltype(pwrite64)>("pwrite64");
  before_write(fd);
  return real(fd, from, bytes, at);
}

int rename(const char* from, const char* to) {
  static auto* const real = next<decltype(rename)>("rename");
  const int status = real(from, to);
  after_rename(status, to);
  return status;
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  static auto* const real = next<decltype(renameat2)>("renameat2");
  const int status = real(from_folder, from, to_folder, to, flags);
  after_rename(status, to);
  return status;
}
}
