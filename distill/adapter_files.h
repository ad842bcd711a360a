#pragma once
// Adapters in the layout of PEFT (Hugging Face), in the folder `adapter` of a student: PeftModel.from_pretrained takes that folder and the
// model that was trained.
//
//   adapter/adapter_config.json         peft_type, r, lora_alpha, target_modules by their full names; base_model_name_or_path is null
//   adapter/adapter_model.safetensors   base_model.model.<module>.lora_A.weight F32 [r, in] and .lora_B.weight F32 [out, r]

#include "core/file.h"
#include "model/adapters.h"

namespace overproof {

inline constexpr const char *kAdapterConfigFile = "adapter/adapter_config.json", *kAdapterFile = "adapter/adapter_model.safetensors";

/// Writes both files; none where the decoder has no adapters.
void write_adapters(const Decoder& decoder, OutputFolder& folder);

}  // namespace overproof
