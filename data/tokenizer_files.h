#pragma once
// A checkpoint's tokenizer as files, so that every exported model can be loaded alone.

#include <optional>
#include <string>

#include "core/file.h"

namespace overproof {

/// Copies what a tokenizer needs (tokenizer.json, tokenizer_config.json, *.model, chat template, ...) byte for byte from the
/// folder of a checkpoint; from a .gguf (or a folder that holds one and no config.json) writes tokenizer.json and
/// tokenizer_config.json out of its metadata. A checkpoint without any of them gives none. Throws IoError, FormatError.
void copy_tokenizer_files(const fs::path& from_checkpoint, OutputFolder& folder);

/// The .gguf that `checkpoint` is: the file itself, or the first in a folder without config.json. Nothing for another checkpoint.
std::optional<fs::path> gguf_of(const fs::path& checkpoint);

/// Copies `name` when the checkpoint is a folder that has it; returns whether it did.
bool copy_file_if_present(const fs::path& from_checkpoint, const std::string& name, OutputFolder& folder);

}  // namespace overproof
