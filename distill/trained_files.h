#pragma once
// The files of a trained artifact next to its weights and step records. distill, calibrate and pretrain write them; `audit replay` makes
// them again and compares.

#include "core/file.h"
#include "distill/training.h"
#include "formats/tensor_source.h"

namespace overproof {

/// What the tokenizer and the model in `parent` need next to weights (copy_companions_noted), with this penalty (TrainOptions) in
/// generation_config.json.
void write_companions(const fs::path& parent, double repetition_penalty, OutputFolder& folder);
/// The same of a tokenizer alone.
void write_tokenizer(const fs::path& tokenizer, double repetition_penalty, OutputFolder& folder);

/// config.json, generation_config.json and the tokenizer's files of what `training` makes of the model in `parent`. They follow from
/// parent and configuration alone.
void write_model_files(const Training& training, DType dtype, const fs::path& parent, double repetition_penalty, OutputFolder& folder);

/// The same of a model without a parent (`pretrain`): of `tokenizer` comes the tokenizer alone.
void write_new_model_files(const Training& training, DType dtype, const fs::path& tokenizer, double repetition_penalty, OutputFolder& folder);

/// The router counts, if there are any: those of the finished training added to the parent's. Tuning that was undone shaped nothing:
/// without `kept`, the parent's alone.
void write_trained_counts(const Training& training, const fs::path& parent, bool kept, OutputFolder& folder);

}  // namespace overproof
