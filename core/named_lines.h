#pragma once
// Files that people write with one record a line, each with a name of its own: questions, tasks.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/file.h"

namespace overproof {

/// Reads one line, which begins at byte `offset` and is the `line`-th, from 1; returns the record's name.
using NamedLineReader = std::function<std::string(std::string_view text, int64_t offset, int64_t line)>;

/// Calls `read` for each line that is not blank; a byte order mark is skipped. Throws FormatError, naming file and line, where a line has more
/// than 8 MiB or a name appears twice. `noun`: what a record is, "task". Returns how many there were.
int64_t read_named_lines(const fs::path& file, std::string_view noun, const NamedLineReader& read);

}  // namespace overproof
