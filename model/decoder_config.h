#pragma once
// What save_decoder() writes next to the weights, alone.

#include "model/decoder.h"

namespace overproof {

inline constexpr int64_t kDecoderShardBytes = int64_t{2} << 30;

/// As save_decoder() stores these tensors.
std::vector<TensorInfo> stored_infos(const std::vector<StoredTensor>& stored, DType dtype);

/// config.json and generation_config.json of a checkpoint whose weights have this type.
void save_decoder_config(const ModelConfig& config, OutputFolder& folder, DType dtype);

}  // namespace overproof
