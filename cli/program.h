#pragma once
// What main() of both programs does (cli/main.cc, cli/main_torch.cc).

#include <string>
#include <vector>

namespace overproof {

/// Runs a command line (without the program's name), reports errors, and returns the exit code.
int run_program(const std::vector<std::string>& words);

}  // namespace overproof
