#include "distill/checkpoint.h"

#include <ATen/ATen.h>

#include <charconv>
#include <cstring>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

constexpr char kFile[] = "checkpoint.safetensors", kNext[] = "checkpoint.next.safetensors";

TensorInfo info_of(const NamedTensor& t) {
  return {t.name, t.tensor.scalar_type() == at::kLong ? DType::i64 : DType::f32, t.tensor.sizes().vec()};
}

}  // namespace

void save_checkpoint(const fs::path& scratch, const Trainer& trainer, const std::string& log, const std::string& run) {
  const std::vector<NamedTensor> state = trainer.state();
  std::vector<TensorInfo> infos;
  for (const NamedTensor& t : state) infos.push_back(info_of(t));
  infos.push_back({"log", DType::u8, {int64_t(log.size())}});
  OutputFolder folder(scratch);
  SafetensorsWriter writer(folder, kNext, infos, {{"steps_done", std::to_string(trainer.steps_done())}, {"run", run}, {"format_version", "1"}});
  for (const NamedTensor& t : state) writer.append(t.tensor.const_data_ptr(), size_t(t.tensor.nbytes()));
  writer.append(log.data(), log.size());
  writer.close();
  std::error_code fault;
  fs::rename(scratch / kNext, scratch / kFile, fault);
  if (fault) throw IoError(scratch / kFile, "cannot replace the checkpoint", fault.value());
  fsync_folder(scratch);
}

bool resume_checkpoint(const fs::path& scratch, Trainer& trainer, std::string& log, const std::string& run) {
  const fs::path path = scratch / kFile;
  if (!fs::exists(path)) return false;
  const SafetensorsFile file(path);
  const Metadata& metadata = file.metadata();
  if (const auto found = metadata.find("run"); found == metadata.end() || found->second != run) return false;
  const auto done = metadata.find("steps_done");
  int64_t steps = -1;
  if (done != metadata.end()) std::from_chars(done->second.data(), done->second.data() + done->second.size(), steps);
  if (steps < 0) throw FormatError(path, -1, "metadata 'steps_done' is missing");
  for (const NamedTensor& t : trainer.state()) {
    const TensorInfo wanted = info_of(t), &info = file.info(t.name);
    if (info.dtype != wanted.dtype || info.shape != wanted.shape) throw FormatError(path, -1, "'" + t.name + "' has another shape");
    const auto bytes = file.bytes(t.name);
    std::memcpy(t.tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  }
  const auto text = file.bytes("log");
  log.assign(text.begin(), text.end());
  trainer.resume_at(steps);
  return true;
}

}  // namespace overproof
