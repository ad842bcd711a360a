#include <ATen/ATen.h>

#include "core/json.h"
#include "formats/sharded.h"
#include "model/decoder.h"
#include "model/host_values.h"

namespace overproof {
namespace {

constexpr int64_t kShardBytes = int64_t{2} << 30;

}  // namespace

void save_decoder(const Decoder& decoder, OutputFolder& folder, SaveDType dtype) {
  const std::vector<StoredTensor> stored = stored_tensors(decoder.weights());
  std::vector<TensorInfo> infos;
  for (const StoredTensor& t : stored)
    infos.push_back({t.name, t.keep_f32 || dtype == SaveDType::f32 ? DType::f32 : DType::bf16, t.target.sizes().vec()});
  ShardedWriter writer(folder, infos, {{"format", "pt"}}, kShardBytes);
  for (const StoredTensor& t : stored) {
    writer.append_f32(host_values<float>(t.target.to(Placement{}.options()).contiguous()));
  }
  writer.close();

  const ModelConfig& c = decoder.config();
  Json config = c.to_json();
  set_stored_dtype(config, dtype == SaveDType::f32 ? DType::f32 : DType::bf16);
  folder.write_file("config.json", config.dump(2) + "\n");
  Json generation = {{"_from_model_config", true}};
  if (c.bos_id >= 0) generation["bos_token_id"] = c.bos_id;
  if (c.eos_id >= 0) generation["eos_token_id"] = c.eos_id;
  folder.write_file("generation_config.json", generation.dump(2) + "\n");
}

std::vector<NamedTensor> stored_weights(const Decoder& decoder) {
  std::vector<NamedTensor> all;
  for (StoredTensor& t : stored_tensors(decoder.weights())) all.push_back({std::move(t.name), std::move(t.target)});
  return all;
}

SaveDType save_dtype(std::string_view name) { return name == "bf16" ? SaveDType::bf16 : SaveDType::f32; }

}  // namespace overproof
