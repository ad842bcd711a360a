#pragma once
// The versions that an artifact's statement records.

#include <map>
#include <string>

namespace overproof {

inline constexpr const char* kVersion = "0.1.0";

/// {"overproof": "0.1.0", "libtorch": "2.15.0", "compiler": "12.2.0"}
std::map<std::string, std::string> builder_versions();

}  // namespace overproof
