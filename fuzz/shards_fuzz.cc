// model.safetensors.index.json with two shards: refused with a FormatError, or every tensor of the shards that it names is read, and
// wherever it is wrong there is a note.

#include "core/error.h"
#include "core/json.h"
#include "formats/safetensors_checkpoint.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  [[maybe_unused]] static const bool ready = [] {
    OutputFolder out(folder.path());
    for (const char* name : {"a", "b"}) {
      SafetensorsWriter shard(out, std::string(name) + ".safetensors", {{name, DType::f32, {2}}});
      const float values[] = {1, 2};
      shard.append(values, sizeof values);
      shard.close();
    }
    return true;
  }();
  folder.put(kSafetensorsIndexName, {reinterpret_cast<const char*>(data), size});
  try {
    const SafetensorsCheckpoint checkpoint(folder.path());
    const Json map = read_json(folder / kSafetensorsIndexName).at("weight_map");
    bool right = true;
    for (const TensorInfo& t : checkpoint.tensors()) {
      right = right && map.contains(t.name) && fs::path(map.at(t.name).get<std::string>()).lexically_normal() == t.name + ".safetensors";
      fuzz::require(checkpoint.read_all_f32(t.name) == std::vector<float>{1, 2});
      fuzz::require(checkpoint.files().at(size_t(checkpoint.extent(t.name)->file)) == folder.path() / (t.name + ".safetensors"));
    }
    fuzz::require(right == checkpoint.notes().empty());
    const bool all = std::ranges::all_of(map.items(), [&](const auto& item) { return checkpoint.find(item.key()) != nullptr; });
    fuzz::require(all == checkpoint.absent().empty());
  } catch (const FormatError&) {
  }
  return 0;
}
