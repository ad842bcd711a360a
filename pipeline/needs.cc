#include "pipeline/needs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/parallel.h"

namespace overproof {
namespace {

bool g_torch_is_bound = false;

}  // namespace

bool program_has(Needs needs) { return needs == Needs::nothing || g_torch_is_bound; }

void note_torch_is_bound() { g_torch_is_bound = true; }

void ensure_program_has(Needs needs, const std::string& command, const std::vector<std::string>& words) {
  if (program_has(needs)) return;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "overproof-torch";
  if (!std::filesystem::exists(program, error))
    throw IoError(program,
                  fmt::format("is missing, and '{}' needs it: this build of overproof has no libtorch (build with "
                              "OVERPROOF_WITH_TORCH=ON)",
                              command),
                  0);
  std::string name = program.string();
  std::vector<std::string> copies = words;
  std::vector<char*> arguments = {name.data()};
  for (std::string& word : copies) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::fflush(stdout);
  set_short_waiting();  // the program would set it and start once more
  ::execv(name.c_str(), arguments.data());
  throw IoError(program, "cannot be started", errno);
}

}  // namespace overproof
