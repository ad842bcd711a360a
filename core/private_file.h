#pragma once
// Files of secrets: only their owner may read them, and no reader sees half of one.

#include <string>
#include <string_view>

#include "core/file.h"

namespace overproof {

/// Writes a new file of mode 0600, and folders of mode 0700 where they are missing. False when the file exists already, also when
/// another process was first. `what` is for messages: "the note key". Throws IoError.
bool create_private_file(const fs::path& file, std::string_view content, std::string_view what);

/// Throws ProvenanceError when others than its owner may read or change the file, IoError when it does not exist. Pipes and
/// devices pass.
void require_private(const fs::path& file, std::string_view what);

/// Reads the file. Throws as require_private does, IoError, and FormatError when it is larger than `max_bytes`.
std::string read_private_file(const fs::path& file, int64_t max_bytes, std::string_view what);

}  // namespace overproof
