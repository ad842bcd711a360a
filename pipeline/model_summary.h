#pragma once
// `overproof inspect`: what a model is, in a few lines, before the list of its tensors.

#include "core/answer.h"
#include "formats/inspect.h"
#include "provenance/keys.h"

namespace overproof {

/// What formats/inspect.h lists of a file or folder, with a summary before it: model type and parameters, size and types of the weights
/// against the same parameters in bf16, the licence that the model states or its import recorded, what made it, and what cannot be done
/// with it here. JSON: as of inspect() or inspect_model(), and "summary": {model_type, parameters, bytes, bytes_in_bf16, dtypes,
/// license, made_by, signer, limits, limits_by_use}; what is not known is null. `trusted`: the key that its statement is checked with; nullptr: the one that it
/// names. Throws as inspect() and inspect_model().
Answer inspect_with_summary(const InspectConfig& config, const std::filesystem::path& path, const PublicKey* trusted = nullptr);

}  // namespace overproof
