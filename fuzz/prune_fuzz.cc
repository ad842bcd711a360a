// `prune`, both ways, on whatever stands in a checkpoint and in what decides: refused with an error of ours, or a checkpoint that
// opens and whose values decode.
//
// The input: a byte for the way, the sizes of two files (U16, little-endian), config.json, model.safetensors, and statistics or
// router counts.

#include <cstring>

#include "core/error.h"
#include "core/progress.h"
#include "records/router_counts.h"
#include "formats/tensor_source.h"
#include "fuzz/fuzz_file.h"
#include "prune/static_stage.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  set_progress_mode(ProgressMode::off);
  uint16_t sizes[2];
  if (size < 1 + sizeof sizes) return 0;
  std::memcpy(sizes, data + 1, sizeof sizes);
  std::string_view rest(reinterpret_cast<const char*>(data) + 1 + sizeof sizes, size - 1 - sizeof sizes);
  for (const char* name : {"model", "out", "scratch"}) {
    fs::remove_all(folder / name);
    fs::create_directory(folder / name);
  }
  fs::create_directory(folder / "model/routing");
  folder.put("formats/model_config.json", fuzz::take_bytes(rest, sizes[0]));
  folder.put("model/model.safetensors", fuzz::take_bytes(rest, sizes[1]));

  PruneConfig config;
  std::map<std::string, InputArtifact> slots;
  if (data[0] % 2 == 0) {
    slots = {{"teacher", {folder / "model", {}}}, {"statistics", {folder / "statistics.safetensors", {}}}};
    folder.put("statistics.safetensors", rest);
  } else {
    slots = {{"student", {folder / "model", {}}}};
    config.drop_source = "notes";
    config.threshold = 0.25;
    config.uneven = data[0] % 4 == 1 ? "empty" : "rank";
    folder.put(fs::path("model") / kRouterCountsFile, rest);
  }
  try {
    Outputs outputs(folder / "out", folder / "scratch");
    run_prune(config, Inputs(slots), outputs);
    const Checkpoint made = open_checkpoint(folder / "out");
    for (const TensorInfo& t : made.tensors->tensors())
      fuzz::require(int64_t(made.tensors->read_all_f32(t.name).size()) == t.elements());
  } catch (const Error&) {
  }
  return 0;
}
