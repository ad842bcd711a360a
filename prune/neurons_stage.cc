#include "prune/neurons_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "data/tokenizer_files.h"
#include "formats/model_config.h"
#include "formats/safetensors.h"
#include "formats/tensor_name.h"
#include "records/ffn_statistics.h"

namespace overproof {
namespace {

constexpr int64_t kNeuronMultiple = 32;  // blocks of Q8_0 and of vector units
constexpr int64_t kBlockElements = int64_t{1} << 20;
constexpr std::string_view kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

/// How a tensor is cut: by rows, by columns, or not at all.
enum class Cut { none, rows, columns };

Cut cut_of(const TensorName& name) {
  if (!name.in_decoder() || name.block != "mlp" || !name.is_ffn()) return Cut::none;
  if (name.part == TensorName::Part::down) return name.bias ? Cut::none : Cut::columns;
  return Cut::rows;
}

/// Whether the head is the embedding: by the configuration, or because both tables are equal.
bool is_tied(const Checkpoint& model) {
  const TensorSource& tensors = *model.tensors;
  const TensorInfo *embedding = tensors.find(kEmbedding), *head = tensors.find(kHead);
  if (!head) return true;
  if (!embedding || head->shape != embedding->shape) return false;
  const JsonObject fields(*model.config, model.path, "", JsonNull::absent);
  if (fields.flag("tie_word_embeddings", false)) return true;
  const int64_t block = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, head->row_elements()));
  for (int64_t row = 0; row < head->shape[0]; row += block) {
    const int64_t n = std::min(block, head->shape[0] - row);
    std::vector<float> a(size_t(n * head->row_elements())), b(a.size());
    tensors.read_f32(kHead, row, n, a);
    tensors.read_f32(kEmbedding, row, n, b);
    if (a != b) return false;
  }
  return true;
}

/// Writes all rows of `tensor`, or those of `picked`, in blocks.
void copy_rows(const TensorSource& source, const TensorInfo& tensor, const std::vector<int64_t>* picked, DType dtype,
               SafetensorsWriter& writer) {
  const int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0], row = rows == 0 ? 0 : tensor.elements() / rows;
  const int64_t block = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, row));
  std::vector<float> values;
  const int64_t count = picked ? int64_t(picked->size()) : rows;
  for (int64_t begin = 0; begin < count; begin += block) {
    throw_if_interrupted();
    const int64_t n = std::min(block, count - begin);
    values.resize(size_t(n * row));
    if (picked == nullptr) {
      source.read_f32(tensor.name, begin, n, values);
    } else {
      for (int64_t i = 0; i < n; ++i)
        source.read_f32(tensor.name, (*picked)[size_t(begin + i)], 1, std::span(values).subspan(size_t(i * row), size_t(row)));
    }
    require_range(dtype, values, tensor.name);
    writer.append_f32(values);
  }
}

/// Writes the `picked` columns of `tensor` in blocks of rows.
void copy_columns(const TensorSource& source, const TensorInfo& tensor, const std::vector<int64_t>& picked, DType dtype,
                  SafetensorsWriter& writer) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1], kept = int64_t(picked.size());
  const int64_t block = std::max<int64_t>(1, kBlockElements / columns);
  std::vector<float> in, out;
  for (int64_t begin = 0; begin < rows; begin += block) {
    throw_if_interrupted();
    const int64_t n = std::min(block, rows - begin);
    in.resize(size_t(n * columns));
    out.resize(size_t(n * kept));
    source.read_f32(tensor.name, begin, n, in);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t j = 0; j < kept; ++j) out[size_t(r * kept + j)] = in[size_t(r * columns + picked[size_t(j)])];
    require_range(dtype, out, tensor.name);
    writer.append_f32(out);
  }
}

int64_t integer_of(const Json& config, const char* key, const fs::path& where) {
  if (!config.contains(key) || !config[key].is_number_integer() || config[key].get<int64_t>() < 1)
    throw FormatError(where, -1, fmt::format("{} is missing or not a positive integer", key));
  return config[key].get<int64_t>();
}

}  // namespace

int64_t kept_neurons(int64_t neurons, double keep) {
  if (keep >= 1) return neurons;
  const int64_t multiple = int64_t(std::llround(double(neurons) * keep / kNeuronMultiple)) * kNeuronMultiple;
  return std::min(neurons, std::max(kNeuronMultiple, multiple));
}

std::vector<int64_t> most_important(std::span<const float> importance, int64_t count) {
  OVERPROOF_CHECK(count >= 0 && count <= int64_t(importance.size()));
  std::vector<int64_t> neurons(importance.size());
  std::iota(neurons.begin(), neurons.end(), int64_t{0});
  std::ranges::stable_sort(neurons, [&](int64_t a, int64_t b) { return importance[size_t(a)] > importance[size_t(b)]; });
  neurons.resize(size_t(count));
  std::ranges::sort(neurons);
  return neurons;
}

StageReport run_prune_neurons(const PruneNeuronsConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Checkpoint teacher = open_checkpoint(inputs.path("teacher"));
  const FfnStatistics statistics(inputs.path("statistics"));
  const int64_t layers = integer_of(*teacher.config, "num_hidden_layers", teacher.path);
  const int64_t neurons = integer_of(*teacher.config, "intermediate_size", teacher.path);
  statistics.require_teacher(inputs.root("teacher"), layers, integer_of(*teacher.config, "hidden_size", teacher.path), neurons);
  const int64_t kept = kept_neurons(neurons, config.keep);

  // The selection, and its share of the importance, for each layer.
  std::vector<std::vector<int64_t>> picked;
  double share_sum = 0, share_least = 1;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::vector<float> importance = statistics.importance(layer);
    picked.push_back(most_important(importance, kept));
    double all = 0, left = 0;
    for (const float x : importance) all += x;
    for (const int64_t j : picked.back()) left += importance[size_t(j)];
    const double share = all > 0 ? left / all : double(kept) / double(neurons);
    share_sum += share;
    share_least = std::min(share_least, share);
  }

  const DType dtype = written_dtype(config.dtype, teacher);
  const bool teacher_ties = is_tied(teacher), tie = resolve_tie(config.tie, teacher_ties, /*needs_head=*/false);
  const TensorInfo* embedding = teacher.tensors->find(kEmbedding);
  std::vector<TensorInfo> tensors;
  int64_t cut_tensors = 0, bytes = 0;
  for (TensorInfo info : teacher.tensors->tensors()) {
    const TensorName name = TensorName::parse(info.name);
    const bool in_mlp = name.in_decoder() && name.rest.starts_with("mlp.");
    if (in_mlp && name.layer >= layers)
      throw FormatError(teacher.path, -1, fmt::format("{}: the configuration has {} layers", info.name, layers));
    const Cut cut = cut_of(name);
    if (in_mlp && cut == Cut::none && name.rest != "mlp.down_proj.bias")
      throw FormatError(teacher.path, -1, fmt::format("{} is not part of a dense gated FFN; prune-neurons reads only those", info.name));
    if (cut != Cut::none) {
      const size_t axis = cut == Cut::rows ? 0 : 1;
      if (info.shape.size() <= axis || info.shape[axis] != neurons)
        throw FormatError(teacher.path, -1,
                          fmt::format("{} does not have the {} neurons of the configuration", info.name, neurons));
      info.shape[axis] = kept;
      ++cut_tensors;
    }
    if (info.name == kHead && tie) continue;
    info.dtype = is_always_f32(info.name) ? DType::f32 : dtype;
    bytes += info.bytes();
    tensors.push_back(std::move(info));
  }
  if (!tie && !teacher.tensors->find(kHead) && embedding) {
    tensors.push_back({std::string(kHead), dtype, embedding->shape});
    bytes += tensors.back().bytes();
  }
  if (cut_tensors < 3 * layers) throw FormatError(teacher.path, -1, "FFN weights are missing");

  OutputFolder& folder = outputs.folder();
  SafetensorsWriter writer(folder, "model.safetensors", tensors, {{"format", "pt"}});
  Progress progress("prune", bytes, "bytes");
  int64_t done = 0;
  for (const TensorInfo& out : tensors) {
    const TensorInfo* stored = teacher.tensors->find(out.name);
    const TensorInfo& in = stored ? *stored : *embedding;  // a head that the teacher does not have
    const TensorName name = TensorName::parse(in.name);
    const Cut cut = cut_of(name);
    if (cut == Cut::columns) copy_columns(*teacher.tensors, in, picked[size_t(name.layer)], out.dtype, writer);
    else copy_rows(*teacher.tensors, in, cut == Cut::rows ? &picked[size_t(name.layer)] : nullptr, out.dtype, writer);
    progress.update(done += out.bytes());
  }
  writer.close();

  Json out_config = *teacher.config;
  out_config["intermediate_size"] = kept;
  out_config["tie_word_embeddings"] = tie;
  set_stored_dtype(out_config, dtype);
  out_config.erase("quantization_config");
  folder.write_file("config.json", out_config.dump(2) + "\n");
  copy_tokenizer_files(teacher.path, folder);
  copy_file_if_present(teacher.path, "generation_config.json", folder);

  StageReport report;
  report.metrics() = {{"neurons", neurons},
                      {"kept", kept},
                      {"layers", layers},
                      {"importance_kept_mean", share_sum / double(layers)},
                      {"importance_kept_least", share_least}};
  record_dtype(report.metrics(), dtype);
  report.summary = {fmt::format(
      "kept {} of {} neurons in each of {} layers ({:.1f} %), with {:.1f} % of the measured importance "
      "({:.1f} % in the worst layer)",
      kept, neurons, layers, 100.0 * double(kept) / double(neurons), 100.0 * share_sum / double(layers), 100.0 * share_least)};
  if (embedding) {
    const std::string tying =
        record_tie(report.metrics(), config.tie, teacher_ties, tie, embedding->elements() * dtype_bytes(dtype));
    if (!tying.empty()) report.summary.push_back(tying);
  }
  return report;
}

}  // namespace overproof
