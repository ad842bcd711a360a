#include "distill/adapter_files.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/json.h"
#include "formats/safetensors.h"
#include "model/host_values.h"

namespace overproof {

void write_adapters(const Decoder& decoder, OutputFolder& folder) {
  const std::vector<AdapterPlace> places = adapter_places(decoder);
  if (places.empty()) return;
  Json modules = Json::array();
  std::vector<TensorInfo> infos;
  std::vector<at::Tensor> tensors;
  for (const AdapterPlace& place : places) {
    modules.push_back(place.module);
    for (const auto& [name, tensor] : {std::pair{".lora_A.weight", place.adapter.a}, {".lora_B.weight", place.adapter.b}}) {
      infos.push_back({"base_model.model." + place.module + name, DType::f32, tensor.sizes().vec()});
      tensors.push_back(tensor.detach().contiguous());
    }
  }
  const int64_t rank = places.front().adapter.a.size(0);
  const double alpha = places.front().adapter.scale * double(rank);
  const Json whole = std::llround(alpha), real = alpha;
  folder.write_file(kAdapterConfigFile, Json{{"peft_type", "LORA"},
                                             {"task_type", "CAUSAL_LM"},
                                             {"base_model_name_or_path", nullptr},
                                             {"r", rank},
                                             {"lora_alpha", std::abs(alpha - std::round(alpha)) < 1e-9 ? whole : real},
                                             {"lora_dropout", 0.0},
                                             {"bias", "none"},
                                             {"fan_in_fan_out", false},
                                             {"inference_mode", true},
                                             {"target_modules", modules}}
                                                .dump(2) +
                                            "\n");
  SafetensorsWriter writer(folder, kAdapterFile, infos, {{"format", "pt"}});
  for (const at::Tensor& tensor : tensors) writer.append(host_bytes(tensor).data(), host_bytes(tensor).size());
  writer.close();
}

}  // namespace overproof
