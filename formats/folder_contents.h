#pragma once
// What a folder holds instead of a checkpoint, and which GGUF files of a folder make one.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace overproof {

/// The one .gguf of a folder, or the first part of the one model that is split there; nothing where there is none. Throws FormatError
/// naming the folder when there are several models.
std::optional<std::filesystem::path> gguf_in_folder(const std::filesystem::path& folder);

/// The .gguf that `checkpoint` is: the file itself, or that of a folder without config.json. Nothing for another checkpoint.
std::optional<std::filesystem::path> gguf_of(const std::filesystem::path& checkpoint);

/// All parts of a split model, by the name of one of them, "NAME-00001-of-00003.gguf"; the file alone when its name has no such end.
std::vector<std::filesystem::path> gguf_part_names(const std::filesystem::path& file);

/// For a message that no weights were found: "; it holds a LoRA adapter (...): merge it ...", empty when nothing is known.
std::string what_else_is_in(const std::filesystem::path& folder);

}  // namespace overproof
