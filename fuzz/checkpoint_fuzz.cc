// A checkpoint folder: config.json up to the first zero byte of the input, model.safetensors from there on. It is refused with a
// FormatError, or every tensor has a role, no tensor is there twice, and the bytes at its extent decode to what is read.

#include <algorithm>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/architecture.h"
#include "formats/quantization_config.h"
#include "formats/tensor_source.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

namespace {

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  std::string_view input(reinterpret_cast<const char*>(data), size);
  folder.put("config.json", fuzz::take_part(input));
  folder.put("model.safetensors", input);
  try {
    const Checkpoint checkpoint = open_checkpoint(folder.path());
    const TensorSource& source = *checkpoint.tensors;
    const Architecture architecture(*checkpoint.config);
    const std::string file = read_file(folder / "model.safetensors");
    std::set<std::string> names;
    for (const TensorInfo& t : source.tensors()) {
      fuzz::require(names.insert(t.name).second && source.find(t.name) == &t);
      fuzz::require(role_name(architecture.role(t)) != "?");
      if (checkpoint.quantization) checkpoint.quantization->group_for(t.name);
      const auto extent = source.extent(t.name);
      fuzz::require(extent && extent->file == 0 && extent->row_unit > 0);
      const int64_t rows = t.shape.empty() ? 1 : t.shape[0], bytes = rows * extent->row_bytes;
      fuzz::require(extent->offset >= 0 && extent->row_bytes >= 0 && extent->offset + bytes <= int64_t(file.size()));
      if (!has_values(t.dtype)) continue;
      const std::vector<float> read = source.read_all_f32(t.name);
      std::vector<float> decoded(read.size());
      source.decode_rows(t.name, 0, rows, {reinterpret_cast<const uint8_t*>(file.data()) + extent->offset, size_t(bytes)},
                         decoded);
      fuzz::require(same(read, decoded));
    }
  } catch (const FormatError&) {
  }
  return 0;
}
