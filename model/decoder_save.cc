#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "core/json.h"
#include "formats/sharded.h"
#include "formats/weight_dtype.h"
#include "model/decoder.h"
#include "model/decoder_config.h"
#include "model/host_values.h"

namespace overproof {
namespace {

/// As it is written: f32 on the CPU, within the range of `dtype`.
at::Tensor checked_values(const StoredTensor& t, DType dtype) {
  at::Tensor host = t.target.to(Placement{}.options()).contiguous();
  require_range(t.keep_f32 ? DType::f32 : dtype, host_values<float>(host), t.name);
  return host;
}

}  // namespace

void save_decoder(const Decoder& decoder, OutputFolder& folder, DType dtype) {
  OVERPROOF_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16);
  if (const std::string cause = decoder.config().why_not_trained(); !cause.empty()) throw MismatchError(cause);
  const std::vector<StoredTensor> stored = stored_tensors(decoder.weights());
  ShardedWriter writer(folder, stored_infos(stored, dtype), {{"format", "pt"}}, kDecoderShardBytes);
  for (const StoredTensor& t : stored) writer.append_f32(host_values<float>(checked_values(t, dtype)));
  writer.close();
  save_decoder_config(decoder.config(), folder, dtype);
}

std::vector<TensorInfo> stored_infos(const std::vector<StoredTensor>& stored, DType dtype) {
  std::vector<TensorInfo> infos;
  for (const StoredTensor& t : stored) infos.push_back({t.name, t.keep_f32 ? DType::f32 : dtype, t.target.sizes().vec()});
  return infos;
}

void save_decoder_config(const ModelConfig& c, OutputFolder& folder, DType dtype) {
  if (const std::string cause = c.why_not_trained(); !cause.empty()) throw MismatchError(cause);
  Json config = c.to_json();
  set_stored_dtype(config, dtype);
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

void round_weights(Decoder& decoder, DType dtype) {
  if (dtype == DType::f32) return;
  at::NoGradGuard no_grad;
  for (StoredTensor& t : stored_tensors(decoder.weights()))
    if (!t.keep_f32) t.target.copy_(checked_values(t, dtype).to(scalar_type_of(dtype)));
}

at::ScalarType scalar_type_of(DType dtype) {
  OVERPROOF_CHECK(dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16);
  return dtype == DType::f32 ? at::kFloat : dtype == DType::f16 ? at::kHalf : at::kBFloat16;
}

}  // namespace overproof
