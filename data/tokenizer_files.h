#pragma once
// A checkpoint's tokenizer as files, so that every exported model can be loaded alone.

#include <optional>
#include <string>
#include <vector>

#include "core/file.h"

namespace overproof {

/// Throws FormatError where a SentencePiece model in the folder of a checkpoint (tokenizer.model and the like) cannot be opened; files of other
/// kinds under these names pass. The JSON files are checked by check_model (formats/companion_files.h).
void refuse_damaged_tokenizer(const fs::path& checkpoint);

/// Copies what a tokenizer needs (tokenizer.json, tokenizer_config.json, *.model, chat template, ...) byte for byte from the
/// folder of a checkpoint; from a .gguf (or a folder that holds one and no config.json) writes tokenizer.json, or
/// tokenizer.model where its tokenizer is of the kind "llama", and tokenizer_config.json out of its metadata. A checkpoint without any of them gives none, and so does a
/// .gguf without a tokenizer, with a note. Throws IoError, FormatError.
void copy_tokenizer_files(const fs::path& from_checkpoint, OutputFolder& folder);

/// copy_tokenizer_files, and what else belongs to the model: licence texts, generation_config.json, code and settings of processors.
/// Returns a note that lists the other files of the folder, which are not copied, except weights and what a stage writes anew; empty
/// where there are none, and of an artifact, whose other files are records of its own stage.
std::string copy_companions(const fs::path& from_checkpoint, OutputFolder& folder);

/// The same, and prints the note.
void copy_companions_noted(const fs::path& from_checkpoint, OutputFolder& folder);

}  // namespace overproof
