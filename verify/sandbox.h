#pragma once
// Programs that a model wrote, run by bubblewrap (bwrap) where they can do no harm: in namespaces of their own, as an unprivileged user.
//
//   network      none: a namespace without interfaces but loopback
//   files        /usr read-only, an empty /tmp in memory of bounded size, /dev and /proc of the sandbox; nothing else of this machine: no home, no keys
//   environment  PATH, LANG, HOME=/tmp
//   processes    a process namespace of their own, bounded in number, killed as a whole at the end, daemons included
//   kernel       no capabilities, no new privileges, no namespaces, no ptrace, and a list of system calls that are refused (seccomp)
//   bounds       wall-clock and processor time, memory of a process and of all, size of files, bytes of output
// Where the kernel refuses namespaces, nothing runs: there is no mode without them.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/file.h"

namespace overproof {

struct SandboxLimits {
  double seconds = 10;  ///< wall clock; processor time of a process is bounded by it, too
  int64_t memory_bytes = int64_t{512} << 20;  ///< address space of a process, and resident memory of all
  int64_t processes = 16;  ///< of the program; those of bwrap come on top
  int64_t file_bytes = int64_t{16} << 20;  ///< of all files in /tmp
  int64_t output_bytes = int64_t{64} << 10;  ///< of standard output and standard error together
};

struct SandboxRun {
  enum class End { exited, out_of_time, out_of_memory, too_many_processes, too_much_output } end = End::exited;
  int exit_code = 0;  ///< of exited; 128 + the signal that ended it
  std::string output, errors;  ///< standard output and standard error, as far as they were read
};

class Sandbox {
 public:
  /// Runs a program that does nothing. Throws IoError where bwrap is missing or cannot make the namespaces, with what it wrote.
  explicit Sandbox(const SandboxLimits& limits = {}, std::string bwrap = "bwrap");

  /// Runs `command` in /tmp, with `files` (name and content) read-only in /tmp, and `input` as its standard input. Throws IoError when the
  /// sandbox itself cannot be made, Interrupted.
  SandboxRun run(const std::vector<std::string>& command, const std::map<std::string, std::string>& files, const std::string& input) const;

 private:
  SandboxLimits limits_;
  std::string bwrap_;
};

}  // namespace overproof
