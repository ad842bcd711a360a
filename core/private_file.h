#pragma once
// Files of secrets: nobody but their owner may read them, and no reader ever sees half of one.

#include <string>
#include <string_view>

#include "core/file.h"

namespace overproof {

/// Writes a file of mode 0600 that did not exist, making folders of mode 0700 where they are new. False when it is there already,
/// or another process was first. `what` is for messages: "the note key". Throws IoError.
bool create_private_file(const fs::path& file, std::string_view content, std::string_view what);

/// Throws ProvenanceError when anyone but its owner may read or change the file, IoError when it is not there. Pipes and devices
/// pass.
void require_private(const fs::path& file, std::string_view what);

/// Reads it. Throws ProvenanceError when anyone but its owner may read or change it, IoError, and FormatError when it is larger.
std::string read_private_file(const fs::path& file, int64_t max_bytes, std::string_view what);

}  // namespace overproof
