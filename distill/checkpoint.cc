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

/// `more` are tensors of bytes after the state.
void write_state(const fs::path& folder, const std::string& name, const Trainer& trainer, const Metadata& metadata,
                 const std::vector<std::pair<std::string, std::string>>& more) {
  const std::vector<NamedTensor> state = trainer.state();
  std::vector<TensorInfo> infos;
  for (const NamedTensor& t : state) infos.push_back(info_of(t));
  for (const auto& [tensor, bytes] : more) infos.push_back({tensor, DType::u8, {int64_t(bytes.size())}});
  const std::string next = name + ".next";
  OutputFolder out(folder);
  SafetensorsWriter writer(out, next, infos, metadata);
  for (const NamedTensor& t : state) writer.append(t.tensor.const_data_ptr(), size_t(t.tensor.nbytes()));
  for (const auto& [tensor, bytes] : more) writer.append(bytes.data(), bytes.size());
  writer.close();
  std::error_code fault;
  fs::rename(folder / next, folder / name, fault);
  if (fault) throw IoError(folder / name, "cannot replace the checkpoint", fault.value());
  fsync_folder(folder);
}

void read_state(const SafetensorsFile& file, Trainer& trainer) {
  for (const NamedTensor& t : trainer.state()) {
    const TensorInfo wanted = info_of(t), &info = file.info(t.name);
    if (info.dtype != wanted.dtype || info.shape != wanted.shape)
      throw FormatError(file.path(), -1, "'" + t.name + "' has another shape");
    const auto bytes = file.bytes(t.name);
    std::memcpy(t.tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  }
}

std::string text_of(const SafetensorsFile& file, const char* name) {
  const auto bytes = file.bytes(name);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

void save_checkpoint(const fs::path& scratch, const Trainer& trainer, const StepLog& log, const std::string& run) {
  write_state(scratch, kFile, trainer,
              {{"steps_done", std::to_string(trainer.steps_done())}, {"run", run}, {"format_version", "2"}},
              {{"log", log.lines}, {"records", log.records ? log.records->bytes() : ""}});
}

bool resume_checkpoint(const fs::path& scratch, Trainer& trainer, StepLog& log, const std::string& run) {
  const fs::path path = scratch / kFile;
  if (!fs::exists(path)) return false;
  const SafetensorsFile file(path);
  const Metadata& metadata = file.metadata();
  if (const auto found = metadata.find("run"); found == metadata.end() || found->second != run) return false;
  // Of another version of this program: begun anew, as with another configuration.
  if (const auto version = metadata.find("format_version"); version == metadata.end() || version->second != "2") return false;
  const auto done = metadata.find("steps_done");
  int64_t steps = -1;
  if (done != metadata.end()) std::from_chars(done->second.data(), done->second.data() + done->second.size(), steps);
  if (steps < 0) throw FormatError(path, -1, "metadata 'steps_done' is missing");
  if (log.records) {
    // The last record need not have a digest here: the run goes on.
    StepRecords records = StepRecords::from_bytes(text_of(file, "records"), log.records->format(), path, StepRecords::Ended::no);
    if (int64_t(records.steps().size()) != steps) throw FormatError(path, -1, "it does not have one record a step");
    log.records = std::move(records);
  }
  read_state(file, trainer);
  log.lines = text_of(file, "log");
  trainer.resume_at(steps);
  return true;
}

std::string kept_state_name(const Digest& weights, const Digest& optimizer) {
  Sha256 hash;
  hash.update(weights.bytes.data(), weights.bytes.size());
  hash.update(optimizer.bytes.data(), optimizer.bytes.size());
  return hash.finish().hex() + ".safetensors";
}

void keep_state(const fs::path& folder, const Trainer& trainer, const Digest& weights, const Digest& optimizer) {
  const std::string name = kept_state_name(weights, optimizer);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw IoError(folder, "cannot make the folder", error.value());
  if (fs::exists(folder / name, error)) return;
  write_state(folder, name, trainer,
              {{"format_version", "1"},
               {"steps_done", std::to_string(trainer.steps_done())},
               {"weights", weights.hex()},
               {"optimizer", optimizer.hex()}},
              {});
}

bool load_kept_state(const fs::path& folder, Trainer& trainer, StateDigester& digester, const Digest& weights,
                     const Digest& optimizer, int64_t steps_done, std::string& fault) {
  const fs::path path = folder / kept_state_name(weights, optimizer);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return false;
  try {
    read_state(SafetensorsFile(path), trainer);
  } catch (const FormatError& e) {
    fault = e.what();
    return false;
  }
  trainer.resume_at(steps_done);
  if (digester.weights() == weights && digester.optimizer() == optimizer) return true;
  fault = path.string() + ": does not hold the state that it is named after";
  return false;
}

}  // namespace overproof
