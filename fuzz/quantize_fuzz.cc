// `quantize` on any content of a checkpoint and of the activations recorded from it: refused with an error of ours, or a
// checkpoint that opens, with as many tensors as the first, whose values decode.
//
// The input: a byte for the options, the sizes of two files (U16, little-endian), config.json, model.safetensors, activations.

#include <cstring>

#include "core/error.h"
#include "core/progress.h"
#include "core/stage.h"
#include "formats/tensor_source.h"
#include "fuzz/fuzz_file.h"
#include "quantize/quantize_stage.h"
#include "records/activation_statistics.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  static const std::vector<std::string> schemes = scheme_names();
  set_progress_mode(ProgressMode::off);
  uint16_t sizes[2];
  if (size < 1 + sizeof sizes) return 0;
  std::memcpy(sizes, data + 1, sizeof sizes);
  std::string_view rest(reinterpret_cast<const char*>(data) + 1 + sizeof sizes, size - 1 - sizeof sizes);
  for (const char* name : {"model", "out", "scratch"}) {
    fs::remove_all(folder / name);
    fs::create_directory(folder / name);
  }
  folder.put("model/config.json", fuzz::take_bytes(rest, sizes[0]));
  folder.put("model/model.safetensors", fuzz::take_bytes(rest, sizes[1]));
  folder.put(kActivationsFile, rest);

  QuantizeConfig config;
  config.scheme = schemes[data[0] % schemes.size()];
  const unsigned flags = data[0] / unsigned(schemes.size());
  config.smooth = flags & 1, config.gptq = flags & 2, config.act_order = flags & 4;
  config.min_tokens = 1;
  std::map<std::string, InputArtifact> slots = {{"model", {folder / "model", {}}}};
  if (!rest.empty()) slots["activations"] = {folder / kActivationsFile, {}};
  try {
    Outputs outputs(folder / "out", folder / "scratch");
    run_quantize(config, Inputs(slots), outputs);
    const Checkpoint before = open_checkpoint(folder / "model"), after = open_checkpoint(folder / "out");
    if (config.scheme == "q8_0") return 0;  // GGUF names and stacks its tensors otherwise
    for (const TensorInfo& t : before.tensors->tensors()) {
      const TensorInfo* made = after.tensors->find(t.name);
      fuzz::require(made && made->shape == t.shape);
      if (has_values(t.dtype)) fuzz::require(int64_t(after.tensors->read_all_f32(t.name).size()) == t.elements());
    }
  } catch (const Error&) {
  }
  return 0;
}
