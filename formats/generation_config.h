#pragma once
// How text of a model is to be generated: the ids that end it, and the settings of sampling.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

class GgufFile;
class GgufMetadata;

inline constexpr const char* kGenerationConfigFile = "generation_config.json";

/// As transformers has it, those of generation_config.json in the folder `model` where it names some, else those of `config`, its
/// config.json; none where neither names any. Throws FormatError for what is no id.
std::vector<int64_t> end_ids(const std::filesystem::path& model, const Json& config);

/// repetition_penalty of generation_config.json in the folder `model`, or what a .gguf (or a folder with one) states; 1, no penalty,
/// where there is none. Throws FormatError for what is no positive number.
double repetition_penalty(const std::filesystem::path& model);

/// The settings of `model` as the keys general.sampling.* of a GGUF, from which llama.cpp's tools take them: those of a .gguf (or a
/// folder with one) as they are, of generation_config.json the ones that both have. Throws FormatError for what is no number.
void add_gguf_sampling(const std::filesystem::path& model, GgufMetadata& out);

/// The same the other way: an object for generation_config.json, empty where the file has no such keys.
Json gguf_sampling(const GgufFile& file);

/// bos_token_id, eos_token_id (a list where llama.cpp stops at more ids) and pad_token_id, as far as the file names them.
Json gguf_token_ids(const GgufFile& file);

/// `generation`, a generation_config.json or empty, with this penalty, as text.
std::string with_repetition_penalty(const std::string& generation, double penalty, const std::filesystem::path& origin);

}  // namespace overproof
