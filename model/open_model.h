#pragma once
// Opens a model that is to run on a corpus.

#include <string>

#include "core/stage.h"
#include "data/corpus.h"
#include "model/decoder.h"

namespace overproof {

/// The checkpoint in `slot`, after the check that its tokenizer is the one that `corpus` was made with: with another one the same ids
/// mean other text. Throws MismatchError, or FormatError for a faulty checkpoint.
Decoder open_model_for(const Corpus& corpus, const Inputs& inputs, const std::string& slot, const Placement& placement = {});

}  // namespace overproof
