#include "pipeline/import_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/real_path.h"
#include "core/regex.h"
#include "core/utf8.h"
#include "data/bpe.h"
#include "data/tokenizer.h"
#include "data/tokenizer_files.h"
#include "formats/architecture.h"
#include "formats/finite_values.h"
#include "formats/folder_contents.h"
#include "formats/gguf.h"
#include "formats/model_check.h"
#include "formats/tensor_source.h"
#include "pipeline/forecast.h"

namespace overproof {
namespace {

/// The regular files below a folder except hidden ones, or the file itself, sorted by name.
std::vector<std::pair<std::string, fs::path>> files_of(const fs::path& path) {
  std::vector<std::pair<std::string, fs::path>> files;
  if (!fs::is_directory(path)) {
    // A blob of a cache has no ending; the copy gets the one by which the artifact is opened.
    const std::string name = path.filename().string();
    return {{is_gguf(path) && !name.ends_with(".gguf") ? name + ".gguf" : name, path}};
  }
  for (auto it = fs::recursive_directory_iterator(path); it != fs::recursive_directory_iterator(); ++it) {
    const std::string name = it->path().filename().string();
    if (name.starts_with('.')) {
      if (it->is_directory()) it.disable_recursion_pending();
      continue;
    }
    if (it->is_symlink() && it->is_directory())
      throw FormatError(it->path(), -1, "is a link to a folder; import a copy made by 'cp -rL'");
    if (invalid_utf8_at(it->path().filename().string()) >= 0)
      throw FormatError(to_valid_utf8(it->path().string()), -1, "has a name that is not UTF-8, which no statement can hold; rename the file");
    if (it->is_regular_file() && name != "claims.jsonl" && name != "model.sig")
      files.emplace_back(it->path().lexically_relative(path).generic_string(), it->path());  // a link keeps its own name
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool is_floating(DType dtype) {
  switch (dtype) {
    case DType::f16:
    case DType::bf16:
    case DType::f32:
    case DType::f64:
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e4m3fnuz:
    case DType::f8_e5m2fnuz:
      return true;
    default:
      return false;
  }
}

void require_finite_weights(const Checkpoint& checkpoint) {
  constexpr int64_t kElements = 1 << 20;  // read at once by a thread
  const auto& tensors = *checkpoint.tensors;
  for (const TensorInfo& t : tensors.tensors()) {
    if (!is_floating(t.dtype) || t.elements() == 0) continue;
    const int64_t width = t.row_elements(), rows = t.elements() / width;
    parallel_for(rows, std::max<int64_t>(1, kElements / width), [&](int64_t begin, int64_t end) {
      throw_if_interrupted();
      std::vector<float> values(size_t((end - begin) * width));
      tensors.read_f32(t.name, begin, end - begin, values);
      require_finite(values, t.name, begin, width, checkpoint.path);
    });
  }
}

/// What the tokenizer's files name and do not have, or why it cannot be used here: other stages may do without. Throws PatternError, since a
/// pattern that takes characters apart is an attack.
void add_tokenizer_notes(const fs::path& path, std::vector<std::string>& notes) {
  const bool there = !fs::is_directory(path) || fs::exists(path / "tokenizer.json") || fs::exists(path / "tokenizer.model");
  if (!there) return;
  const auto unusable = [&](const std::exception& e) { notes.push_back(std::string("its tokenizer cannot be used here: ") + e.what()); };
  try {
    const auto tokenizer = open_tokenizer(path);
    if (const auto* bpe = dynamic_cast<const BpeTokenizer*>(tokenizer.get()))
      std::ranges::copy(bpe->definition().notes, std::back_inserter(notes));
  } catch (const PatternError&) {
    throw;
  } catch (const FormatError& e) {
    unusable(e);
  } catch (const IoError& e) {  // a single .safetensors file, for one
    if (fs::is_directory(path)) unusable(e);
  }
}

std::string_view unquoted(std::string_view text) {
  constexpr std::string_view kAround = " \t\r\"'";
  const size_t begin = text.find_first_not_of(kAround);
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(kAround) + 1 - begin);
}

}  // namespace

std::string stated_license(const fs::path& path) {
  constexpr int64_t kMostReadmeBytes = 16 << 20;
  if (const std::optional<fs::path> gguf = gguf_of(path); gguf && is_gguf(*gguf)) {
    const std::string license = GgufFile(*gguf).text("general.license", "");
    return license == "other" ? GgufFile(*gguf).text("general.license.name", license) : license;
  }
  if (!fs::is_regular_file(path / "README.md") || int64_t(fs::file_size(path / "README.md")) > kMostReadmeBytes) return "";
  const std::string readme = read_file(path / "README.md");
  std::string license, name;
  size_t at = readme.find('\n');
  if (at == std::string::npos || unquoted(std::string_view(readme).substr(0, at)) != "---") return "";
  while (at < readme.size()) {
    const size_t end = std::min(readme.find('\n', ++at), readme.size());
    const std::string_view line = std::string_view(readme).substr(at, end - at);
    at = end;
    if (unquoted(line) == "---") break;
    if (line.starts_with("license:")) license = unquoted(line.substr(8));
    if (line.starts_with("license_name:")) name = unquoted(line.substr(13));
  }
  return license == "other" && !name.empty() ? name : license;
}

StageReport run_import(const ImportConfig& config, const Inputs& inputs, Outputs& outputs) {
  const fs::path& path = inputs.path("path");
  if (!config.sha256.empty()) {
    const Digest wanted = Digest::from_hex(config.sha256);
    const Digest found = fs::is_directory(path) ? inputs.root("path") : sha256_file(path);
    if (wanted != found)
      throw ProvenanceError(fmt::format(
          "{}: its digest is sha256:{}, but option 'sha256' requires sha256:{}; download the file again, or correct the "
          "option",
          path.string(), found.hex(), wanted.hex()));
  }
  // What fails, fails here rather than in a later stage.
  const Checkpoint checkpoint = open_checkpoint(path);
  std::vector<std::string> notes = check_model(checkpoint);
  refuse_damaged_tokenizer(path);
  require_finite_weights(checkpoint);
  add_tokenizer_notes(path, notes);

  int64_t total = 0, done = 0;
  const auto files = files_of(path);
  for (const auto& [name, file] : files) total += int64_t(fs::file_size(file));
  require_room(outputs.folder().path(), total);
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
  if (const std::string license = config.license.empty() ? to_valid_utf8(stated_license(path)) : ""; !license.empty()) {
    report.metrics()["stated_license"] = license;
    report.summary.push_back(fmt::format("licence: {}, as the model states it; --license records another one", license));
  }
  report.summary.push_back(fmt::format("{}: {} files, {:.1f} MB, {:.1f} million parameters",
                                       config.name.empty() ? path.filename().string() : config.name, files.size(),
                                       double(total) / 1e6, double(parameters) / 1e6));
  for (const std::string& limit : limits_of(path).sentences()) report.summary.push_back("note: " + limit);
  for (const std::string& note : notes) report.summary.push_back("note: " + note);
  return report;
}

}  // namespace overproof
