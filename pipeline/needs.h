#pragma once
// What a stage or a verb needs to be executed. There are two programs with the same command line: `overproof`, which starts in
// milliseconds, and `overproof-torch` next to it, which links libtorch. The first replaces itself by the second when a command
// needs libtorch, before anything of the command has run.

#include <string>
#include <vector>

namespace overproof {

enum class Needs { nothing, torch };

/// Whether this program can execute it. True for Needs::torch after bind_torch_functions() (pipeline/torch_functions.h).
bool program_has(Needs needs);

/// Returns if this program has what `command` needs. Else replaces the process by `overproof-torch` with the same arguments
/// `words`, or throws IoError when that program does not exist: this build has no libtorch.
void ensure_program_has(Needs needs, const std::string& command, const std::vector<std::string>& words);

/// Called by bind_torch_functions() alone.
void note_torch_is_bound();

}  // namespace overproof
