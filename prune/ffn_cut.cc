#include "prune/ffn_cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/progress.h"
#include "formats/model_config.h"
#include "formats/tensor_name.h"
#include "prune/picked_rows.h"

namespace overproof {
namespace {

constexpr int64_t kNeuronMultiple = 32;  // blocks of Q8_0 and of vector units
constexpr std::string_view kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

/// How a tensor is cut: by rows, by columns, or not at all.
enum class Cut { none, rows, columns };

Cut cut_of(const TensorName& name) {
  if (!name.in_decoder() || name.block != "mlp" || !name.is_ffn()) return Cut::none;
  if (name.part == TensorName::Part::down) return name.bias ? Cut::none : Cut::columns;
  return Cut::rows;
}

/// Writes the `picked` columns of `tensor` in blocks of rows.
void write_columns(const TensorSource& source, const TensorInfo& tensor, const std::vector<int64_t>& picked, ShardedWriter& writer) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1], kept = int64_t(picked.size());
  const int64_t block = std::max<int64_t>(1, kPrunedBlockElements / columns);
  std::vector<float> in, out;
  for (int64_t begin = 0; begin < rows; begin += block) {
    throw_if_interrupted();
    const int64_t n = std::min(block, rows - begin);
    in.resize(size_t(n * columns));
    out.resize(size_t(n * kept));
    source.read_f32(tensor.name, begin, n, in);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t j = 0; j < kept; ++j) out[size_t(r * kept + j)] = in[size_t(r * columns + picked[size_t(j)])];
    require_range(writer.current()->dtype, out, tensor.name);
    writer.append_f32(out);
  }
}

}  // namespace

DenseFfn read_dense_ffn(const Checkpoint& model) {
  const JsonObject fields(*model.config, model.path);
  const auto size = [&](const char* name) { return fields.integer(name, 1, INT64_MAX); };
  return {size("num_hidden_layers"), size("hidden_size"), size("intermediate_size")};
}

int64_t kept_neurons(int64_t neurons, double keep) {
  if (keep >= 1) return neurons;
  const int64_t multiple = int64_t(std::llround(double(neurons) * keep / kNeuronMultiple)) * kNeuronMultiple;
  return std::min(neurons, std::max(kNeuronMultiple, multiple));
}

std::vector<int64_t> highest_scores(std::span<const float> scores, int64_t count) {
  OVERPROOF_CHECK(count >= 0 && count <= int64_t(scores.size()));
  std::vector<int64_t> neurons(scores.size());
  std::iota(neurons.begin(), neurons.end(), int64_t{0});
  std::ranges::stable_sort(neurons, [&](int64_t a, int64_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
  neurons.resize(size_t(count));
  std::ranges::sort(neurons);
  return neurons;
}

void write_with_neurons(const Checkpoint& model, const std::vector<std::vector<int64_t>>& picked, const std::vector<std::vector<float>>& bias,
                        const CutOptions& options, OutputFolder& folder, StageReport& report) {
  const DenseFfn ffn = read_dense_ffn(model);
  const int64_t layers = ffn.layers, neurons = ffn.neurons;
  const auto kept = int64_t(picked.at(0).size());
  OVERPROOF_CHECK(int64_t(picked.size()) == layers && (bias.empty() || bias.size() == picked.size()));
  const DType dtype = written_dtype(options.dtype, model);
  const bool was_tied = is_tied(model), tie = resolve_tie(options.tie, was_tied, /*needs_head=*/false);
  const TensorInfo* embedding = model.tensors->find(kEmbedding);
  std::vector<TensorInfo> tensors;
  int64_t cut_tensors = 0, bytes = 0;
  for (TensorInfo info : model.tensors->tensors()) {
    const TensorName name = TensorName::parse(info.name);
    const bool in_mlp = name.in_decoder() && name.rest.starts_with("mlp.");
    if (in_mlp && name.layer >= layers)
      throw FormatError(model.path, -1, fmt::format("{}: the configuration has {} layers", info.name, layers));
    const Cut cut = cut_of(name);
    if (in_mlp && cut == Cut::none && name.rest != "mlp.down_proj.bias")
      throw FormatError(model.path, -1, fmt::format("{} is not part of a dense gated FFN; only those lose neurons", info.name));
    if (cut != Cut::none) {
      const size_t axis = cut == Cut::rows ? 0 : 1;
      if (info.shape.size() <= axis || info.shape[axis] != neurons)
        throw FormatError(model.path, -1, fmt::format("{} does not have the {} neurons of the configuration", info.name, neurons));
      info.shape[axis] = kept;
      ++cut_tensors;
    }
    if (info.name == kHead && tie) continue;
    info.dtype = is_always_f32(info.name) ? DType::f32 : dtype;
    bytes += info.bytes();
    tensors.push_back(std::move(info));
  }
  if (!tie && !model.tensors->find(kHead) && embedding) {
    tensors.push_back({std::string(kHead), dtype, embedding->shape});
    bytes += tensors.back().bytes();
  }
  for (int64_t l = 0; !bias.empty() && l < layers; ++l)
    for (const auto& [part, width] : {std::pair("gate_proj", kept), {"up_proj", kept}, {"down_proj", ffn.hidden_size}}) {
      const std::string name = fmt::format("model.layers.{}.mlp.{}.bias", l, part);
      if (model.tensors->find(name)) continue;
      tensors.push_back({name, dtype, {width}});
      bytes += tensors.back().bytes();
    }
  if (cut_tensors < 3 * layers) throw FormatError(model.path, -1, "FFN weights are missing");

  ShardedWriter writer(folder, tensors);
  Progress progress("prune", bytes, "bytes");
  int64_t done = 0;
  for (const TensorInfo& out : tensors) {
    const TensorInfo* stored = model.tensors->find(out.name);
    if (const TensorName name = TensorName::parse(out.name); !bias.empty() && name.in_decoder() && name.block == "mlp" && name.bias &&
                                                              (!stored || name.part == TensorName::Part::down)) {
      std::vector<float> values(size_t(out.elements()), 0.0f);
      if (stored) model.tensors->read_f32(out.name, 0, out.shape.at(0), values);
      if (name.part == TensorName::Part::down) {
        const std::vector<float>& added = bias[size_t(name.layer)];
        OVERPROOF_CHECK(added.size() == values.size());
        for (size_t i = 0; i < added.size(); ++i) values[i] += added[i];
      }
      require_range(out.dtype, values, out.name);
      writer.append_f32(values);
      progress.update(done += out.bytes());
      continue;
    }
    const TensorInfo& in = stored ? *stored : *embedding;  // a head that the parent does not have
    const TensorName name = TensorName::parse(in.name);
    const Cut cut = cut_of(name);
    if (cut == Cut::columns) write_columns(*model.tensors, in, picked[size_t(name.layer)], writer);
    else write_rows(*model.tensors, in, cut == Cut::rows ? &picked[size_t(name.layer)] : nullptr, 0, writer);
    progress.update(done += out.bytes());
  }
  writer.close();

  Json config = *model.config;
  config["intermediate_size"] = kept;
  if (!bias.empty()) config["mlp_bias"] = true;
  config["tie_word_embeddings"] = tie;
  set_stored_dtype(config, dtype);
  config.erase("quantization_config");
  write_pruned_config(model.path, config, folder);

  record_dtype(report.metrics(), dtype);
  if (!embedding) return;
  const std::string tying =
      record_tie(report.metrics(), options.tie, was_tied, tie, embedding->elements() * dtype_bytes(dtype));
  if (!tying.empty()) report.summary.push_back(tying);
}

}  // namespace overproof
