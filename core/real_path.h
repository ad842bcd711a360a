#pragma once
// Paths by what they name: links resolved, the same answer with and without a slash at the end, and what a file is by its first bytes.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/file.h"

namespace overproof {

/// The absolute path without links, ".", ".." and a slash at the end. Of what does not exist, as far as it exists; a link to what
/// does not exist becomes the place that it names. Throws IoError for links in a circle.
fs::path real_path(const fs::path& path);

/// As given, but without slashes at the end, and resolved when it is a link to a folder: what an input is called by.
fs::path input_path(const fs::path& path);

/// Whether `inner` is `outer` or in it, whatever their spelling.
bool lies_within(const fs::path& inner, const fs::path& outer);

/// Throws UsageError when `out` is one of the named inputs or lies in one that is a folder: what is written there would destroy the
/// input, or change it while it is read. `whole`: `out` is a folder that is replaced as a whole, so no input may lie in it either.
void require_apart(const fs::path& out, const std::vector<std::pair<std::string, fs::path>>& inputs, bool whole = false);

/// Whether a regular file begins with these bytes.
bool begins_with(const fs::path& file, std::string_view magic);

/// Whether it is a GGUF file, whatever its name.
inline bool is_gguf(const fs::path& file) { return begins_with(file, "GGUF"); }

/// Throws IoError when the file system of `folder` has less room than `bytes`: an error before hours of work, not after.
void require_room(const fs::path& folder, int64_t bytes);

}  // namespace overproof
