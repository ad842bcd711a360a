#pragma once
// The ids that end a text of a model, which several files name.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/json_fwd.h"

namespace overproof {

/// As transformers has it, those of generation_config.json in the folder `model` where it names some, else those of `config`, its
/// config.json; none where neither names any. Throws FormatError for what is no id.
std::vector<int64_t> end_ids(const std::filesystem::path& model, const Json& config);

}  // namespace overproof
