#pragma once
// How large a file is, compared with the teacher as its users have it: in bf16.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "formats/tensor_source.h"

namespace overproof {

/// Bytes of all weights at two bytes each; a tied table counts once. Scales and zero points of activations do not count.
int64_t bf16_bytes(const Checkpoint& checkpoint);

/// Bytes of the weight files of a checkpoint on disk: safetensors or GGUF.
int64_t weight_file_bytes(const std::filesystem::path& checkpoint);

/// "0.166 GB, 0.62 of the teacher in bf16 (0.269 GB)". `reference`: what the other size is of, e.g. "the teacher".
std::string size_against(int64_t bytes, int64_t reference_bf16, std::string_view reference);

/// A warning where `bytes` is more than the reference in bf16, else empty.
std::string size_warning(int64_t bytes, int64_t reference_bf16, std::string_view what, std::string_view reference);

}  // namespace overproof
