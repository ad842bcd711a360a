#include "teacher/logits.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "core/real_path.h"
#include "formats/safetensors.h"
#include "model/decoder.h"

namespace overproof {
namespace {

at::Tensor read_ids(const fs::path& path) {
  const SafetensorsFile file(path);
  const TensorInfo& info = file.info("ids");
  if (info.shape.empty() || info.shape.size() > 2 || info.elements() == 0)
    throw FormatError(path, -1, "'ids' must have one or two dimensions, none of them empty");
  const int64_t length = info.shape.back();
  const at::Tensor ids = at::empty({info.elements() / length, length}, at::kLong);
  const auto fill = [&](const auto& values) { std::copy(values.begin(), values.end(), ids.data_ptr<int64_t>()); };
  if (info.dtype == DType::i32) fill(file.values<int32_t>("ids"));
  else if (info.dtype == DType::i64) fill(file.values<int64_t>("ids"));
  else throw FormatError(path, -1, "'ids' must be I32 or I64");
  return ids;
}

}  // namespace

int64_t run_logits(const LogitsConfig& config, const fs::path& model) {
  if (config.ids.empty() || config.out.empty()) throw UsageError("logits needs --ids and --out");
  require_apart(config.out, {{"ids", config.ids}, {"model", model}});
  prepare_torch();
  at::NoGradGuard no_grad;
  const at::Tensor ids = read_ids(config.ids);
  const Decoder decoder(open_checkpoint(model));
  const at::Tensor hidden = decoder.hidden(ids);
  const fs::path out = real_path(config.out), partial = out.parent_path() / ("." + out.filename().string() + ".partial");
  OutputFolder folder(out.parent_path());
  SafetensorsWriter writer(folder, partial.filename().string(),
                           {{"logits", DType::f32, {hidden.size(0), decoder.config().vocab_size}}});
  constexpr int64_t kRows = 256;
  for (int64_t r = 0; r < hidden.size(0); r += kRows) {
    const at::Tensor logits = decoder.logits(hidden.narrow(0, r, std::min(kRows, hidden.size(0) - r)));
    writer.append(logits.const_data_ptr<float>(), size_t(logits.numel()) * sizeof(float));
  }
  writer.close();
  fs::rename(partial, out);  // at once: another process may have the old file mapped
  return hidden.size(0);
}

}  // namespace overproof
