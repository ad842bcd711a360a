// prune-neurons, prune-source, prune-weights and prune-experts on any content of a checkpoint and of what selects its parts: an error of ours, or a checkpoint
// that opens and whose values decode.
//
// The input: a byte for the stage and its method, the sizes of two files (U16, little-endian), config.json, model.safetensors, and statistics or
// router counts.

#include <cstring>

#include "core/error.h"
#include "core/progress.h"
#include "records/router_counts.h"
#include "formats/tensor_source.h"
#include "fuzz/fuzz_file.h"
#include "prune/experts_stage.h"
#include "prune/neurons_stage.h"
#include "prune/source_stage.h"
#include "prune/weights_stage.h"

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
  folder.put("model/config.json", fuzz::take_bytes(rest, sizes[0]));
  folder.put("model/model.safetensors", fuzz::take_bytes(rest, sizes[1]));

  enum { neurons, source, weights, experts };
  const int stage = data[0] < 4 ? data[0] % 2 : data[0] / 4 % 4, method = data[0] / 16 % 3;
  std::map<std::string, InputArtifact> slots = {{stage == neurons ? "teacher" : stage == weights ? "model" : "student", {folder / "model", {}}}};
  if (stage == source) {
    folder.put(fs::path("model") / kRouterCountsFile, rest);
  } else {
    slots["statistics"] = {folder / "statistics.safetensors", {}};
    folder.put("statistics.safetensors", rest);
  }
  try {
    Outputs outputs(folder / "out", folder / "scratch");
    if (stage == neurons) run_prune_neurons({.method = NeuronMethod(method)}, Inputs(slots), outputs);
    else if (stage == weights) run_prune_weights({.method = WeightMethod(method), .sparsity = data[0] % 2 ? "2:4" : "0.5"}, Inputs(slots), outputs);
    else if (stage == experts) run_prune_experts({.method = PruneExpertsConfig::Method(method)}, Inputs(slots), outputs);
    else run_prune_source({"notes", 0.25, data[0] % 4 == 1 ? Uneven::empty : Uneven::rank}, Inputs(slots), outputs);
    const Checkpoint made = open_checkpoint(folder / "out");
    for (const TensorInfo& t : made.tensors->tensors())
      fuzz::require(int64_t(made.tensors->read_all_f32(t.name).size()) == t.elements());
  } catch (const Error&) {
  }
  return 0;
}
