// safetensors: any bytes are refused with a FormatError or accepted; what is accepted, written again, reads back equal.

#include <algorithm>

#include "core/error.h"
#include "formats/safetensors.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  const fuzz::FuzzFile input(data, size);
  try {
    const SafetensorsFile file(input.path());
    OutputFolder out(folder.path());
    SafetensorsWriter writer(out, "again.safetensors", file.tensors(), file.metadata());
    for (const TensorInfo& t : file.tensors()) {
      writer.append(file.bytes(t.name).data(), file.bytes(t.name).size());
      if (!has_values(t.dtype)) continue;
      std::vector<float> values(size_t(t.elements()));
      elements_to_f32(t.dtype, file.bytes(t.name).data(), values);
    }
    writer.close();
    const SafetensorsFile again(folder / "again.safetensors");
    fuzz::require(again.metadata() == file.metadata() && again.tensors() == file.tensors());
    for (const TensorInfo& t : file.tensors()) fuzz::require(std::ranges::equal(again.bytes(t.name), file.bytes(t.name)));
  } catch (const FormatError&) {
  }
  return 0;
}
