#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/json.h"
#include "data/tokenizer_files.h"
#include "formats/safetensors.h"
#include "model/decoder_access.h"

namespace overproof {
namespace {

constexpr int64_t kShardBytes = int64_t{2} << 30;

TensorInfo describe(const StoredTensor& t, SaveDType dtype) {
  return {t.name, t.keep_f32 || dtype == SaveDType::f32 ? DType::f32 : DType::bf16, t.target.sizes().vec()};
}

int64_t bytes_of(const TensorInfo& info) { return info.elements() * dtype_bytes(info.dtype); }

/// Cuts the tensors, in order, into shards of at most kShardBytes (more only if a single tensor is larger).
std::vector<std::vector<StoredTensor>> shards_of(std::vector<StoredTensor> all, SaveDType dtype) {
  std::vector<std::vector<StoredTensor>> shards(1);
  int64_t filled = 0;
  for (StoredTensor& t : all) {
    const int64_t bytes = bytes_of(describe(t, dtype));
    if (!shards.back().empty() && filled + bytes > kShardBytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().push_back(std::move(t));
  }
  return shards;
}

void write_shard(const std::vector<StoredTensor>& shard, OutputFolder& folder, const std::string& name, SaveDType dtype) {
  std::vector<TensorInfo> infos;
  for (const StoredTensor& t : shard) infos.push_back(describe(t, dtype));
  SafetensorsWriter writer(folder, name, infos, {{"format", "pt"}});
  for (const StoredTensor& t : shard) {
    const at::Tensor values = t.target.contiguous();
    writer.append_f32({values.const_data_ptr<float>(), size_t(values.numel())});
  }
  writer.close();
}

}  // namespace

void save_decoder(const Decoder& decoder, OutputFolder& folder, SaveDType dtype) {
  const auto shards = shards_of(stored_tensors(decoder), dtype);
  Json weight_map = Json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_shard(shards[i], folder, name, dtype);
    for (const StoredTensor& t : shards[i]) {
      weight_map[t.name] = name;
      total += bytes_of(describe(t, dtype));
    }
  }
  if (shards.size() > 1)
    folder.write_file("model.safetensors.index.json",
                      Json{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}.dump(2) + "\n");

  const ModelConfig& c = decoder.config();
  Json config = c.to_json();
  config["torch_dtype"] = dtype == SaveDType::f32 ? "float32" : "bfloat16";
  folder.write_file("config.json", config.dump(2) + "\n");
  Json generation = {{"_from_model_config", true}};
  if (c.bos_id >= 0) generation["bos_token_id"] = c.bos_id;
  if (c.eos_id >= 0) generation["eos_token_id"] = c.eos_id;
  folder.write_file("generation_config.json", generation.dump(2) + "\n");
}

void copy_tokenizer(const fs::path& from_checkpoint, OutputFolder& folder) { copy_tokenizer_files(from_checkpoint, folder); }

}  // namespace overproof
