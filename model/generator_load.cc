#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "formats/canonical_tensors.h"
#include "formats/finite_values.h"
#include "formats/integer_codes.h"
#include "formats/model_check.h"
#include "model/decoder_parts.h"
#include "model/generator.h"
#include "model/generator_weights.h"
#include "model/host_values.h"
#include "model/weight_memory.h"

namespace overproof {
namespace {

using at::Tensor;
using ops::RowMatrix;

/// A tensor of the checkpoint and where it is read to: a vector or router (`plain`), or a matrix.
struct Place {
  std::string name;
  Tensor* plain = nullptr;
  RowMatrix* matrix = nullptr;
  bool is_wide = false;  ///< a router: never rounded to 16 bits
};

class Places {
 public:
  Places(const ModelConfig& config, GeneratorWeights& weights) {
    const auto& c = config;
    matrix("model.embed_tokens.weight", weights.embedding);
    if (!c.tie_embeddings) matrix("lm_head.weight", weights.head);
    plain("model.norm.weight", weights.final_norm);
    if (c.norm_bias) plain("model.norm.bias", weights.final_norm_bias);
    weights.layers.resize(size_t(c.layers));
    for (int64_t i = 0; i < c.layers; ++i) {
      GeneratorLayer& w = weights.layers[size_t(i)];
      const std::string layer = fmt::format("model.layers.{}.", i);
      norms(c, layer, w);
      attention(c, layer + "self_attn.", w);
      if (!c.shape_of(i).experts) {
        ffn(layer + "mlp.", w.dense);
        if (c.mlp_bias) {
          plain(layer + "mlp.gate_proj.bias", w.dense.gate_bias);
          plain(layer + "mlp.up_proj.bias", w.dense.up_bias);
          plain(layer + "mlp.down_proj.bias", w.dense.down_bias);
        }
        continue;
      }
      if (c.shared_width() > 0) ffn(layer + std::string(shared_experts_module(c.shared_gate)), w.dense);
      if (c.shared_gate) plain(layer + "mlp.shared_expert_gate.weight", w.shared_gate);
      w.experts.resize(size_t(c.n_routed_experts));
      for (size_t e = 0; e < w.experts.size(); ++e) ffn(fmt::format("{}mlp.experts.{}.", layer, e), w.experts[e]);
      plain(layer + "mlp.gate.weight", w.router, true);
      if (c.expert_scores == ExpertScores::sigmoid) plain(layer + "mlp.gate.e_score_correction_bias", w.router_bias, true);
    }
  }
  const std::vector<Place>& all() const { return all_; }

 private:
  void norms(const ModelConfig& c, const std::string& layer, GeneratorLayer& w) {
    const bool after = c.places == NormPlaces::post || c.places == NormPlaces::sandwich, ffn_norm = c.places == NormPlaces::pre || c.places == NormPlaces::sandwich;
    if (c.places != NormPlaces::post) plain(layer + "input_layernorm.weight", w.input_norm);
    if (c.norm_bias) plain(layer + "input_layernorm.bias", w.input_norm_bias);
    if (ffn_norm) plain(layer + "post_attention_layernorm.weight", w.post_norm);
    if (ffn_norm && c.norm_bias) plain(layer + "post_attention_layernorm.bias", w.post_norm_bias);
    if (after) plain(layer + "attention_out_norm.weight", w.attention_out_norm);
    if (after) plain(layer + "ffn_out_norm.weight", w.ffn_out_norm);
  }
  void attention(const ModelConfig& c, const std::string& at, GeneratorLayer& w) {
    if (c.is_latent()) {
      if (c.q_rank > 0) matrix(at + "q_a_proj.weight", w.q_a), plain(at + "q_a_layernorm.weight", w.q_a_norm);
      matrix(at + (c.q_rank > 0 ? "q_b_proj.weight" : "q_proj.weight"), w.q);
      matrix(at + "kv_a_proj_with_mqa.weight", w.kv_a);
      plain(at + "kv_a_layernorm.weight", w.kv_a_norm);
      matrix(at + "kv_b_proj.weight", w.kv_b);
    } else {
      matrix(at + "q_proj.weight", w.q);
      matrix(at + "k_proj.weight", w.k);
      matrix(at + "v_proj.weight", w.v);
    }
    matrix(at + "o_proj.weight", w.o);
    if (c.attention_bias) {
      plain(at + "q_proj.bias", w.q_bias);
      plain(at + "k_proj.bias", w.k_bias);
      plain(at + "v_proj.bias", w.v_bias);
    }
    if (c.output_bias) plain(at + "o_proj.bias", w.o_bias);
    if (c.qk_norm) {
      plain(at + "q_norm.weight", w.q_norm);
      plain(at + "k_norm.weight", w.k_norm);
    }
  }
  void plain(std::string name, Tensor& to, bool is_wide = false) { all_.push_back({std::move(name), &to, nullptr, is_wide}); }
  void matrix(std::string name, RowMatrix& to) { all_.push_back({std::move(name), nullptr, &to}); }
  void ffn(const std::string& at, GeneratorFfn& to) {
    matrix(at + "gate_proj.weight", to.gate);
    matrix(at + "up_proj.weight", to.up);
    matrix(at + "down_proj.weight", to.down);
  }
  std::vector<Place> all_;
};

/// Memory for the tensor on the CPU, in the form in which it is kept.
RowMatrix empty_matrix(const TensorInfo& info, const TensorSource& tensors, WeightMemory& memory) {
  const auto empty = [&](int64_t columns, at::ScalarType type) { return memory.take({info.shape[0], columns}, type); };
  const int64_t columns = info.shape[1];
  const auto* codes = dynamic_cast<const IntegerCodes*>(&tensors);
  const auto layout = codes ? codes->code_layout(info.name) : std::nullopt;
  RowMatrix matrix;
  if (layout && (layout->block >= columns || layout->block % 16 == 0)) {
    matrix.values = empty(columns, at::kChar);
    matrix.scales = empty(layout->blocks(columns), at::kFloat);
    if (layout->has_offsets) matrix.offsets = empty(layout->blocks(columns), at::kFloat);
    matrix.block = layout->block;
    return matrix;
  }
  return empty(columns, info.dtype == DType::bf16 ? at::kBFloat16 : info.dtype == DType::f16 ? at::kHalf : at::kFloat);
}

/// The elements of rows of a tensor as memory.
template <class T>
std::span<T> rows_of(const Tensor& t, int64_t first, int64_t rows) {
  if (!t.defined()) return {};
  const int64_t width = t.numel() / t.size(0);
  return mutable_host_values<T>(t).subspan(size_t(first * width), size_t(rows * width));
}

/// A scale or weight that is no number is refused here, else every caller would have to watch what it computes.
void read_rows(const TensorInfo& info, const TensorSource& tensors, const RowMatrix& to, int64_t first, int64_t rows,
               const fs::path& where) {
  if (to.has_codes()) {
    const auto scales = rows_of<float>(to.scales, first, rows), offsets = rows_of<float>(to.offsets, first, rows);
    dynamic_cast<const IntegerCodes&>(tensors).read_codes(info.name, first, rows,
                                                          {rows_of<int8_t>(to.values, first, rows), scales, offsets});
    require_finite(scales, info.name, first, int64_t(scales.size()) / rows, where);
    if (!offsets.empty()) require_finite(offsets, info.name, first, int64_t(offsets.size()) / rows, where);
    return;
  }
  const int64_t width = to.values.numel() / to.rows();
  if (to.values.scalar_type() == at::kFloat) {
    const auto values = rows_of<float>(to.values, first, rows);
    tensors.read_f32(info.name, first, rows, values);
    return require_finite(values, info.name, first, width, where);
  }
  std::vector<float> values(size_t(rows * to.columns()));
  tensors.read_f32(info.name, first, rows, values);
  require_finite(values, info.name, first, width, where);
  const auto bytes = mutable_host_bytes(to.values).subspan(size_t(first * to.columns()) * 2);
  f32_to_elements(info.dtype, values, bytes.data());  // exact: this is the type that it is stored in
}

/// Reads in pieces of about a megabyte, so that one large embedding does not leave the other cores without work.
void read_all(const std::vector<std::pair<const TensorInfo*, const RowMatrix*>>& stored, const TensorSource& tensors,
              const fs::path& where) {
  struct Piece {
    const TensorInfo* info;
    const RowMatrix* to;
    int64_t first, rows;
  };
  constexpr int64_t kElements = 1 << 18;
  std::vector<Piece> pieces;
  for (const auto& [info, to] : stored) {
    const int64_t rows = to->rows(), step = std::max<int64_t>(1, kElements / std::max<int64_t>(1, to->values.numel() / rows));
    for (int64_t r = 0; r < rows; r += step) pieces.push_back({info, to, r, std::min(step, rows - r)});
  }
  parallel_for(int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[size_t(i)];
      read_rows(*piece.info, tensors, *piece.to, piece.first, piece.rows, where);
    }
  });
}

/// What one token reads of each matrix: `use(matrix, share)`.
void for_each_read(const GeneratorWeights& weights, const ModelConfig& config, const std::function<void(const RowMatrix&, double)>& use) {
  const auto ffn = [&](const GeneratorFfn& f, double share) {
    if (!f.gate.defined()) return;
    for (const RowMatrix* m : {&f.gate, &f.up, &f.down}) use(*m, share);
  };
  const auto plain = [&](std::initializer_list<Tensor> tensors) {
    for (const Tensor& t : tensors)
      if (t.defined()) use(t, 1);
  };
  use(weights.head, 1);
  if (!config.tie_embeddings) use(weights.embedding, 1 / double(config.vocab_size));
  plain({weights.final_norm});
  for (const GeneratorLayer& w : weights.layers) {
    for (const RowMatrix* m : {&w.q_a, &w.q, &w.kv_a, &w.kv_b, &w.k, &w.v, &w.o})
      if (m->defined()) use(*m, 1);
    plain({w.input_norm, w.post_norm, w.q_norm, w.k_norm, w.q_bias, w.k_bias, w.v_bias, w.router, w.router_bias, w.dense.gate_bias, w.dense.up_bias,
           w.dense.down_bias, w.input_norm_bias, w.post_norm_bias, w.attention_out_norm, w.ffn_out_norm, w.o_bias, w.q_a_norm, w.kv_a_norm, w.shared_gate});
    ffn(w.dense, 1);
    for (const GeneratorFfn& expert : w.experts) ffn(expert, double(config.top_k) / double(config.n_routed_experts));
  }
}

}  // namespace

namespace {

GeneratorWeights load_canonical(const ModelConfig& config, const TensorSource& tensors, const Placement& placement, const fs::path& where) {
  GeneratorWeights weights;
  const Places places(config, weights);
  std::vector<std::pair<const TensorInfo*, const RowMatrix*>> stored;
  std::vector<RowMatrix> vectors(places.all().size());
  WeightMemory memory;
  for (size_t i = 0; i < places.all().size(); ++i) {
    const Place& place = places.all()[i];
    const TensorInfo* info = tensors.find(place.name);
    if (!info) throw FormatError(where, -1, fmt::format("has no tensor '{}', which its config.json requires", place.name));
    if (place.matrix && has_cpu_kernels(placement)) {
      *place.matrix = empty_matrix(*info, tensors, memory);
      stored.emplace_back(info, place.matrix);
    } else {
      vectors[i] = at::empty(info->shape, Placement{}.options());
      stored.emplace_back(info, &vectors[i]);
    }
  }
  read_all(stored, tensors, where);
  for (size_t i = 0; i < places.all().size(); ++i) {
    const Place& place = places.all()[i];
    if (!vectors[i].defined()) continue;
    const at::ScalarType type = place.is_wide ? wide_type(placement.dtype) : placement.dtype;
    const Tensor there = vectors[i].values.to(placement.options().dtype(type));
    (place.plain ? *place.plain : place.matrix->values) = there;
  }
  if (config.tie_embeddings) weights.head = weights.embedding;
  return weights;
}

}  // namespace

GeneratorWeights load_generator_weights(const ModelConfig& config, const TensorSource& tensors, const Placement& placement,
                                        const fs::path& where) {
  check_tensors(config.to_json(), tensors, where);
  const auto canonical = canonical_tensors(config, tensors);
  return load_canonical(config, canonical ? *canonical : tensors, placement, where);
}

int64_t Generator::bytes_per_token() const {
  double bytes = 0;
  for_each_read(*weights_, config_, [&](const RowMatrix& m, double share) { bytes += share * double(m.bytes()); });
  return int64_t(bytes + 0.5);
}

std::string Generator::forms() const {
  std::map<std::string, double> bytes;
  double all = 0;
  for_each_read(*weights_, config_, [&](const RowMatrix& m, double share) {
    bytes[m.form()] += share * double(m.bytes());
    all += share * double(m.bytes());
  });
  std::vector<std::pair<double, std::string>> largest;
  for (const auto& [form, size] : bytes)
    if (size >= 0.01 * all) largest.emplace_back(-size, form);
  std::ranges::sort(largest);
  std::string text;
  for (const auto& [size, form] : largest) text += (text.empty() ? "" : ", ") + form;
  return text;
}

}  // namespace overproof
