#include "distill/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstring>

#include "core/error.h"
#include "formats/safetensors.h"

namespace overproof {
namespace {

TensorInfo info_of(const NamedTensor& t) {
  return {t.name, t.tensor.scalar_type() == at::kLong ? DType::i64 : DType::f32, t.tensor.sizes().vec()};
}

/// `more` are tensors of bytes after the state.
FileRecord write_state(const fs::path& folder, const std::string& name, const Trainer& trainer, const Metadata& metadata,
                       const std::vector<std::pair<std::string, std::string>>& more) {
  const std::vector<NamedTensor> state = trainer.state();
  std::vector<TensorInfo> infos;
  for (const NamedTensor& t : state) infos.push_back(info_of(t));
  for (const auto& [tensor, bytes] : more) infos.push_back({tensor, DType::u8, {int64_t(bytes.size())}});
  OutputFolder out(folder);
  SafetensorsWriter writer(out, name, infos, metadata);
  for (const NamedTensor& t : state) writer.append(t.tensor.const_data_ptr(), size_t(t.tensor.nbytes()));
  for (const auto& [tensor, bytes] : more) writer.append(bytes.data(), bytes.size());
  writer.close();
  return out.records().at(0);
}

/// Throws FormatError before anything is copied when a tensor is missing or has another shape.
void read_state(const SafetensorsFile& file, Trainer& trainer) {
  const std::vector<NamedTensor> state = trainer.state();
  for (const NamedTensor& t : state) {
    const TensorInfo wanted = info_of(t), &info = file.info(t.name);
    if (info.dtype != wanted.dtype || info.shape != wanted.shape)
      throw FormatError(file.path(), -1, "'" + t.name + "' has another shape");
  }
  for (const NamedTensor& t : state) {
    const auto bytes = file.bytes(t.name);
    std::memcpy(t.tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  }
}

std::string text_of(const SafetensorsFile& file, const char* name) {
  if (const TensorInfo& info = file.info(name); info.dtype != DType::u8 || info.shape.size() != 1)
    throw FormatError(file.path(), -1, std::string("'") + name + "' is not U8 [bytes]");
  const auto bytes = file.bytes(name);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

void TrainingCheckpoint::write(const Trainer& trainer, const StepLog& log) {
  const int64_t steps = trainer.steps_done();
  const FileRecord file = write_state(scratch_, fmt::format("checkpoint-{}.safetensors", steps), trainer, {},
                                      {{"log", log.lines}, {"records", log.records ? log.records->bytes() : ""}});
  fsync_folder(scratch_);
  resume_.write({{file}, {{"steps", steps}}});
}

bool TrainingCheckpoint::read(int64_t all_steps, Trainer& trainer, StepLog& log) {
  const auto point = resume_.read();
  if (!point || point->files.size() != 1 || !point->progress.contains("steps")) return false;
  const Json& done = point->progress["steps"];
  if (!done.is_number_unsigned() || done.get<uint64_t>() >= uint64_t(all_steps)) return false;
  const int64_t steps = done.get<int64_t>();
  try {
    const SafetensorsFile file(scratch_ / point->files[0].name);
    std::string lines = text_of(file, "log");
    std::optional<StepRecords> records;
    if (log.records) {
      // The last record need not have a digest: the training has not ended.
      records = StepRecords::from_bytes(text_of(file, "records"), log.records->format(), file.path(), StepRecords::Ended::no);
      if (int64_t(records->steps().size()) != steps) return false;
    }
    read_state(file, trainer);
    log.lines = std::move(lines);
    log.records = std::move(records);
  } catch (const FormatError&) {
    return false;
  }
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
  const std::string unfinished = name + ".partial";
  write_state(folder, unfinished, trainer,
              {{"format_version", "1"},
               {"steps_done", std::to_string(trainer.steps_done())},
               {"weights", weights.hex()},
               {"optimizer", optimizer.hex()}},
              {});
  fs::rename(folder / unfinished, folder / name, error);
  if (error) throw IoError(folder / name, "cannot move the state into place", error.value());
  fsync_folder(folder);
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
  fault = path.string() + ": its content does not have the digests in its name";
  return false;
}

}  // namespace overproof
