#include "formats/folder_contents.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/real_path.h"

namespace overproof {
namespace {

namespace fs = std::filesystem;

/// "-00002-of-00003.gguf": the number and the count of parts.
struct PartName {
  std::string stem;
  int64_t number = 0, count = 0;
};

std::optional<PartName> part_name(const fs::path& file) {
  const std::string name = file.filename().string();
  constexpr std::string_view kShape = "-00000-of-00000.gguf";
  if (name.size() <= kShape.size()) return std::nullopt;
  const std::string end = name.substr(name.size() - kShape.size());
  for (size_t i = 0; i < end.size(); ++i)
    if (kShape[i] == '0' ? end[i] < '0' || end[i] > '9' : end[i] != kShape[i]) return std::nullopt;
  PartName part{name.substr(0, name.size() - end.size()), std::stoll(end.substr(1, 5)), std::stoll(end.substr(10, 5))};
  if (part.number < 1 || part.number > part.count) return std::nullopt;
  return part;
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (!entry.path().filename().string().starts_with('.')) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

// TensorFlow, Flax, ONNX, NumPy, TensorFlow Lite, Core ML, NeMo.
constexpr std::string_view kOtherFrameworks[] = {".h5",     ".keras",   ".pb",        ".msgpack", ".onnx", ".npz",
                                                 ".tflite", ".mlmodel", ".mlpackage", ".nemo"};

/// The folder of a model in `folder/name`: that one, or a revision of a repository in the hub's cache ("snapshots/REVISION").
std::string model_below(const fs::path& folder, const std::string& name) {
  const auto is_model = [](const fs::path& place) {
    std::error_code ignored;
    return fs::exists(place / "config.json", ignored) || fs::exists(place / "model.safetensors", ignored);
  };
  if (is_model(folder / name)) return name;
  if (name != "snapshots") return {};
  for (const fs::path& revision : files_in(folder / name))
    if (is_model(revision)) return name + "/" + revision.filename().string();
  return {};
}

}  // namespace

std::vector<fs::path> gguf_part_names(const fs::path& file) {
  const auto part = part_name(file);
  if (!part) return {file};
  std::vector<fs::path> all;
  for (int64_t i = 1; i <= part->count; ++i)
    all.push_back(file.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", part->stem, i, part->count));
  return all;
}

std::optional<fs::path> gguf_in_folder(const fs::path& folder) {
  std::set<fs::path> models;  // by their first file
  for (const fs::path& file : files_in(folder))
    if (file.extension() == ".gguf" || is_gguf(file)) models.insert(gguf_part_names(file).front());
  if (models.size() > 1) throw FormatError(folder, -1, fmt::format("has {} .gguf files; name the one to open", models.size()));
  if (models.empty()) return std::nullopt;
  return *models.begin();
}

std::optional<fs::path> gguf_of(const fs::path& checkpoint) {
  if (!fs::is_directory(checkpoint)) return checkpoint;
  return fs::exists(checkpoint / "config.json") ? std::nullopt : gguf_in_folder(checkpoint);
}

std::string what_else_is_in(const fs::path& folder) {
  bool adapter = false;
  std::string pickle, variant, gguf, other, below;
  for (const fs::path& file : files_in(folder)) {
    const std::string name = file.filename().string(), extension = file.extension().string();
    adapter |= name == "adapter_config.json" || name.starts_with("adapter_model.");
    if (pickle.empty() && (extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt")) pickle = name;
    if (variant.empty() && extension == ".safetensors") variant = name;
    if (gguf.empty() && extension == ".gguf") gguf = name;
    if (other.empty() && std::ranges::count(kOtherFrameworks, extension)) other = name;
    if (below.empty() && fs::is_directory(file)) below = model_below(folder, name);
  }
  if (adapter)
    return "; it holds a LoRA adapter, not a model: merge it into its base model (peft: merge_and_unload) and save that";
  if (!gguf.empty()) return fmt::format("; it holds '{}': name that file", gguf);
  if (!variant.empty())
    return fmt::format(
        "; it holds '{}': a model in one file is called model.safetensors, and one in shards has a model.safetensors.index.json; is the "
        "download complete?",
        variant);
  if (!pickle.empty())
    return fmt::format("; it holds '{}', a pickle, which can run code when it is opened: save it as safetensors with transformers "
                       "(save_pretrained)",
                       pickle);
  if (!other.empty())
    return fmt::format("; it holds '{}', which is of another framework: save the model as safetensors with transformers (save_pretrained)", other);
  if (!below.empty()) return fmt::format("; '{}' in it looks like a model: name that folder", below);
  return {};
}

}  // namespace overproof
