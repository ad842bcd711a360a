#include "pipeline/import_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "formats/architecture.h"
#include "formats/tensor_source.h"

namespace overproof {
namespace {

/// The regular files below a folder except hidden ones, or the file itself, sorted by name.
std::vector<std::pair<std::string, fs::path>> files_of(const fs::path& path) {
  std::vector<std::pair<std::string, fs::path>> files;
  if (!fs::is_directory(path)) return {{path.filename().string(), path}};
  for (auto it = fs::recursive_directory_iterator(path); it != fs::recursive_directory_iterator(); ++it) {
    const std::string name = it->path().filename().string();
    if (name.starts_with('.')) {
      if (it->is_directory()) it.disable_recursion_pending();
      continue;
    }
    if (it->is_symlink() && it->is_directory())
      throw FormatError(it->path(), -1, "is a symbolic link to a folder; import real files");
    if (it->is_regular_file() && name != "claims.jsonl" && name != "model.sig")
      files.emplace_back(fs::relative(it->path(), path).generic_string(), it->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

StageReport run_import(const ImportConfig& config, const Inputs& inputs, Outputs& outputs) {
  const fs::path& path = inputs.path("path");
  if (!config.sha256.empty()) {
    const Digest wanted = Digest::from_hex(config.sha256);
    const Digest found = fs::is_directory(path) ? inputs.root("path") : sha256_file(path);
    if (wanted != found)
      throw ProvenanceError(
          fmt::format("{}: its digest is sha256:{}, but option 'sha256' requires sha256:{}; download the file again, or correct the "
                      "option",
                      path.string(), found.hex(), wanted.hex()));
  }
  const Checkpoint checkpoint = open_checkpoint(path);  // fails here rather than in a later stage

  int64_t total = 0, done = 0;
  const auto files = files_of(path);
  for (const auto& [name, file] : files) total += int64_t(fs::file_size(file));
  Progress progress("import", total, "bytes");
  for (const auto& [name, file] : files) {
    const MappedFile source(file);
    OutputFile copy = outputs.folder().open(name);
    for (int64_t at = 0; at < source.size(); at += int64_t{8} << 20) {
      throw_if_interrupted();
      const auto piece = source.bytes().subspan(size_t(at), size_t(std::min(source.size() - at, int64_t{8} << 20)));
      copy.write(piece.data(), piece.size());
      progress.update(done += int64_t(piece.size()));
    }
    outputs.folder().finish(std::move(copy));
  }

  int64_t parameters = 0;
  for (const TensorInfo& t : checkpoint.tensors->tensors()) parameters += t.elements();
  StageReport report;
  report.metrics() = {{"bytes", total},
                      {"files", files.size()},
                      {"parameters", parameters},
                      {"model_type", Architecture(*checkpoint.config).model_type()}};
  report.summary.push_back(fmt::format("{}: {} files, {:.1f} MB, {:.1f} million parameters",
                                       config.name.empty() ? path.filename().string() : config.name, files.size(),
                                       double(total) / 1e6, double(parameters) / 1e6));
  return report;
}

}  // namespace overproof
