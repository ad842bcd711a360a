#pragma once
// What main() does, for the two programs there are: see cli/light/main.cc.

#include <string>
#include <vector>

namespace overproof {

/// Runs a command line (without the program's name), reports errors, and returns the exit code.
int run_program(const std::vector<std::string>& words);

}  // namespace overproof
