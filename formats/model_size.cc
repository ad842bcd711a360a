#include "formats/model_size.h"

#include <fmt/format.h>

#include "core/file.h"
#include "formats/quantization_config.h"

namespace overproof {

int64_t bf16_bytes(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const TensorInfo& info : checkpoint.tensors->tensors())
    if (!is_activation_parameter(info.name)) bytes += 2 * info.elements();
  return bytes;
}

int64_t weight_file_bytes(const fs::path& checkpoint) {
  const Checkpoint opened = open_checkpoint(checkpoint);
  int64_t bytes = 0;  // of the files that are read: a folder may hold the same weights twice, as consolidated.safetensors
  for (const fs::path& file : opened.tensors->files()) bytes += int64_t(fs::file_size(file));
  return bytes;
}

std::string size_against(int64_t bytes, int64_t reference_bf16, std::string_view reference) {
  return fmt::format("{:.3f} GB, {:.2f} of {} in bf16 ({:.3f} GB)", double(bytes) * 1e-9,
                     double(bytes) / double(reference_bf16 > 0 ? reference_bf16 : 1), reference, double(reference_bf16) * 1e-9);
}

std::string size_warning(int64_t bytes, int64_t reference_bf16, std::string_view what, std::string_view reference) {
  if (bytes <= reference_bf16) return {};
  return fmt::format("warning: {} is larger than {} in bf16 ({:.1f} MB against {:.1f} MB)", what, reference, double(bytes) * 1e-6,
                     double(reference_bf16) * 1e-6);
}

}  // namespace overproof
