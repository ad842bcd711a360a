#pragma once
// Puts a finished folder into the place of an earlier one, so that a kill at any moment leaves one of the two, complete.

#include "core/file.h"

namespace overproof {

/// Moves the folder `finished` to `out`. Whatever was at `out` is removed. Both are in the same parent folder. Where the file system
/// can exchange two names (renameat2), `out` exists all the time, and what a kill leaves at `finished` can be deleted; else
/// replace_by_two_renames() is used. Throws IoError; `out` is then what it was.
void replace_folder(const fs::path& finished, const fs::path& out);

/// As replace_folder, for file systems that cannot exchange names: the earlier folder is moved to previous_folder(out) first.
/// After a kill between the two renames, restore_previous() puts it back.
void replace_by_two_renames(const fs::path& finished, const fs::path& out);

fs::path previous_folder(const fs::path& out);

/// Undoes a replacement that was killed: what is at previous_folder(out) goes back to `out` when nothing is there, and is removed
/// else. Throws IoError.
void restore_previous(const fs::path& out);

}  // namespace overproof
