#pragma once
// What is in a tensor file or a folder of them, for people and for programs.

#include <filesystem>
#include <iosfwd>

namespace overproof {

/// Lists tensors (name, dtype, shape, bytes), metadata and totals of a .safetensors or .gguf file, or of all those in a folder,
/// as they are stored. `json`: one JSON object {path, files: [{file, format, metadata, tensors}], tensors, elements, bytes}.
/// Long metadata arrays are given by their length only. Throws IoError or FormatError.
void inspect(const std::filesystem::path& path, bool json, std::ostream& out);

}  // namespace overproof
