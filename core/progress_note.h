#pragma once
// A line on standard error for the user of a long run.

#include <string_view>

namespace overproof {

/// Prints the line; nothing where progress (core/progress.h) is off.
void progress_note(std::string_view line);

}  // namespace overproof
