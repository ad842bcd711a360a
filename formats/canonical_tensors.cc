#include "formats/canonical_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/error.h"
#include "formats/integer_codes.h"
#include "formats/model_kinds.h"

namespace overproof {
namespace {

/// Where the rows of RoPE's order are in a head of the file: `turned` of its `width` values turn, from `first` on.
std::vector<int64_t> head_order(int64_t width, int64_t first, int64_t turned, bool interleaved) {
  std::vector<int64_t> still;
  for (int64_t i = 0; i < width; ++i)
    if (i < first || i >= first + turned) still.push_back(i);
  const int64_t half = width / 2, pairs = turned / 2;
  std::vector<int64_t> order(static_cast<size_t>(width));
  for (int64_t i = 0; i < pairs; ++i) {
    order[size_t(i)] = first + (interleaved ? 2 * i : i);
    order[size_t(half + i)] = first + (interleaved ? 2 * i + 1 : pairs + i);
  }
  for (int64_t i = pairs; i < half; ++i) {
    order[size_t(i)] = still[size_t(i - pairs)];
    order[size_t(half + i)] = still[size_t(i - pairs + half - pairs)];
  }
  return order;
}

bool is_sorted_order(const std::vector<int64_t>& order) { return std::ranges::is_sorted(order); }

class CanonicalTensors final : public TensorSource, public IntegerCodes {
 public:
  CanonicalTensors(const ModelConfig& config, const ModelKind& kind, const TensorSource& source)
      : c_(config), kind_(kind), source_(source) {
    const int64_t turned = c_.rope.turned > 0 ? c_.rope.turned : c_.head_dim;
    if (c_.is_latent()) {
      q_order_ = head_order(c_.head_dim, c_.nope_dim, c_.rope_dim, c_.interleaved_rope);
      kv_a_order_.resize(size_t(c_.kv_rank + c_.rope_dim));
      std::iota(kv_a_order_.begin(), kv_a_order_.end(), 0);
      const std::vector<int64_t> rope = head_order(c_.rope_dim, 0, c_.rope_dim, c_.interleaved_rope);
      for (int64_t i = 0; i < c_.rope_dim; ++i) kv_a_order_[size_t(c_.kv_rank + i)] = c_.kv_rank + rope[size_t(i)];
    } else {
      q_order_ = head_order(c_.head_dim, 0, turned, c_.interleaved_rope);
    }
    if (is_sorted_order(q_order_)) q_order_.clear();
    for (const TensorInfo& t : source.tensors()) add(t);
  }

  bool changes() const { return changes_; }
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }

  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override {
    const size_t at = table_.row_range({}, name, first_row, rows, out);
    const Origin& from = origins_[at];
    const int64_t width = table_.list()[at].row_elements();
    if (from.numbered) {
      for (int64_t r = 0; r < rows; ++r)
        source_.read_f32(fmt::format("{}{}.weight", from.name, first_row + r), 0, width,
                         out.subspan(size_t(r * width), size_t(width)));
    } else if (from.within > 0) {
      read_within(from, first_row, rows, width, out);
    } else {
      each_run(from, first_row, rows, [&](int64_t row, int64_t stored, int64_t count) {
        source_.read_f32(from.name, stored, count, out.subspan(size_t((row - first_row) * width), size_t(count * width)));
      });
    }
    if (from.columns) {
      std::vector<float> row(static_cast<size_t>(width));
      for (int64_t r = 0; r < rows; ++r) {
        const auto values = out.subspan(size_t(r * width), size_t(width));
        std::ranges::copy(values, row.begin());
        for (int64_t i = 0; i < width; ++i) values[size_t(i)] = row[size_t((*from.columns)[size_t(i)])];
      }
    }
    if (from.plus_one)
      for (float& value : out) value += 1.0f;
  }

  std::optional<CodeLayout> code_layout(std::string_view name) const override {
    const TensorInfo* t = table_.find(name);
    const auto* codes = dynamic_cast<const IntegerCodes*>(&source_);
    if (!t || !codes) return std::nullopt;
    const Origin& from = origins_[table_.index_of(*t)];
    return from.within > 0 || from.columns || from.numbered ? std::nullopt : codes->code_layout(from.name);
  }

  void read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const override {
    const auto layout = code_layout(name);
    OVERPROOF_CHECK(layout.has_value());
    const TensorInfo& t = *table_.find(name);
    const int64_t columns = t.shape[1], blocks = layout->blocks(columns);
    each_run(origins_[table_.index_of(t)], first_row, rows, [&](int64_t row, int64_t stored, int64_t count) {
      const auto part = [&](auto values, int64_t width) {
        return values.empty() ? values : values.subspan(size_t((row - first_row) * width), size_t(count * width));
      };
      dynamic_cast<const IntegerCodes&>(source_).read_codes(
          origins_[table_.index_of(t)].name, stored, count,
          {part(out.codes, columns), part(out.scales, blocks), part(out.offsets, blocks)});
    });
  }

 private:
  struct Origin {
    std::string name;                               ///< in source_
    int64_t first_row = 0;                          ///< there
    const std::vector<int64_t>* order = nullptr;    ///< of the rows, in units of its length; null: as they are
    const std::vector<int64_t>* columns = nullptr;  ///< the same of the columns
    bool plus_one = false;
    int64_t within = 0;  ///< of a stack [experts, within, width]: rows of an expert's matrix, first_row being the first one's
    int64_t expert = 0;
    bool numbered = false;  ///< row r is the tensor `name` + r + ".weight"
  };

  /// body(row, row in the file, count) for rows that are next to each other in both.
  template <class Body>
  void each_run(const Origin& from, int64_t first_row, int64_t rows, const Body& body) const {
    if (!from.order) return body(first_row, from.first_row + first_row, rows);
    const auto length = int64_t(from.order->size());
    const auto stored = [&](int64_t row) { return from.first_row + row - row % length + (*from.order)[size_t(row % length)]; };
    for (int64_t row = first_row; row < first_row + rows;) {
      int64_t count = 1;
      while (row + count < first_row + rows && stored(row + count) == stored(row) + count) ++count;
      body(row, stored(row), count);
      row += count;
    }
  }

  void read_within(const Origin& from, int64_t first_row, int64_t rows, int64_t width, std::span<float> out) const {
    std::vector<float> matrix(size_t(from.within * width));  // its rows are the experts: there is no smaller part to read
    source_.read_f32(from.name, from.expert, 1, matrix);
    std::copy_n(matrix.begin() + (from.first_row + first_row) * width, rows * width, out.begin());
  }

  void put(std::string name, const TensorInfo& t, std::vector<int64_t> shape, Origin from) {
    changes_ |= name != t.name || from.order || from.columns || from.plus_one;
    if (!table_.add({std::move(name), t.dtype, std::move(shape)}))
      throw FormatError({}, -1, fmt::format("'{}' is there twice under different names", t.name));
    origins_.push_back(std::move(from));
  }

  /// Rows [first, first + rows) of a tensor, as one of their own.
  void put_rows(const std::string& name, const TensorInfo& t, int64_t first, int64_t rows,
                const std::vector<int64_t>* order = nullptr) {
    std::vector<int64_t> shape = t.shape;
    shape[0] = rows;
    put(name, t, std::move(shape), {.name = t.name, .first_row = first, .order = order});
  }

  void add(const TensorInfo& t) {
    const TensorName name = TensorName::parse(t.name);
    const std::string_view rest = name.rest;
    const bool norm = rest.ends_with("norm.weight") && c_.norm == NormKind::rms_plus_one;
    if (!name.in_decoder() || name.layer >= c_.layers)
      return put(t.name, t, t.shape, {.name = t.name, .plus_one = norm && !name.in_decoder()});
    const std::string layer = fmt::format("model.layers.{}.", name.layer);
    const auto is_of = [&](std::string_view module) {
      return rest.starts_with(module) && rest.substr(module.size()).starts_with('.');
    };
    const auto behind = [&](std::string_view module) { return std::string(rest.substr(module.size())); };

    if (is_of("self_attn.qkv_proj")) {
      const int64_t q = c_.heads * c_.head_dim, kv = c_.kv_heads * c_.head_dim;
      const std::string suffix = behind("self_attn.qkv_proj");
      if (t.shape.empty() || t.shape[0] != q + 2 * kv) return put(t.name, t, t.shape, {.name = t.name});
      put_rows(layer + "self_attn.q_proj" + suffix, t, 0, q, turned());
      put_rows(layer + "self_attn.k_proj" + suffix, t, q, kv, turned());
      return put_rows(layer + "self_attn.v_proj" + suffix, t, q + kv, kv);
    }
    if (is_of("mlp.gate_up_proj") && t.shape.size() == 2 && t.shape[0] % 2 == 0) {
      const std::string suffix = behind("mlp.gate_up_proj");
      put_rows(layer + "mlp.gate_proj" + suffix, t, 0, t.shape[0] / 2);
      return put_rows(layer + "mlp.up_proj" + suffix, t, t.shape[0] / 2, t.shape[0] / 2);
    }
    const bool in_memory =
        rest.starts_with("block_sparse_moe.experts.gate_up") || rest.starts_with("block_sparse_moe.experts.down");
    if (is_of("block_sparse_moe.input_linear") || is_of("block_sparse_moe.output_linear") || in_memory)
      return add_stack(t, layer);
    for (const char* which : {"q", "k"}) {
      const std::string proj = fmt::format("self_attn.{}_proj", which);
      if (is_of(proj) && (!c_.is_latent() || *which == 'q')) return put(t.name, t, t.shape, {.name = t.name, .order = turned()});
      const std::string heads_norm = fmt::format("self_attn.{}_layernorm.norms.", which);
      if (rest.starts_with(heads_norm)) {
        if (rest != heads_norm + "0.weight" || t.shape.size() != 1) return;  // the first one brings all
        return put(fmt::format("{}self_attn.{}_norm.weight", layer, which), t,
                   {*which == 'q' ? c_.heads : c_.kv_heads, t.shape[0]},
                   {.name = layer + heads_norm, .columns = turned(), .numbered = true});
      }
      if (rest == fmt::format("self_attn.{}_norm.weight", which)) {
        const bool by_head = t.shape.size() == 2;  // [heads, head_dim]
        return put(
            t.name, t, t.shape,
            {.name = t.name, .order = by_head ? nullptr : turned(), .columns = by_head ? turned() : nullptr, .plus_one = norm});
      }
    }
    if (is_of("self_attn.q_b_proj")) return put(t.name, t, t.shape, {.name = t.name, .order = turned()});
    if (is_of("self_attn.kv_a_proj_with_mqa"))
      return put(t.name, t, t.shape, {.name = t.name, .order = c_.interleaved_rope ? &kv_a_order_ : nullptr});
    put(layer + renamed(name), t, t.shape, {.name = t.name, .plus_one = norm});
  }

  const std::vector<int64_t>* turned() const { return q_order_.empty() ? nullptr : &q_order_; }

  /// Experts in one tensor [experts, rows, width], granitemoe's: gate rows above up rows, or down.
  void add_stack(const TensorInfo& t, const std::string& layer) {
    if (t.shape.size() != 3 || t.shape[0] != c_.n_routed_experts) return put(t.name, t, t.shape, {.name = t.name});
    const bool down = t.name.find("output_linear") != std::string::npos || t.name.find("experts.down") != std::string::npos;
    const int64_t rows = down ? t.shape[1] : t.shape[1] / 2;
    for (int64_t e = 0; e < t.shape[0]; ++e) {
      const auto part = [&](const char* name, int64_t first) {
        put(fmt::format("{}mlp.experts.{}.{}_proj.weight", layer, e, name), t, {rows, t.shape[2]},
            {.name = t.name, .first_row = first, .within = t.shape[1], .expert = e});
      };
      if (down) {
        part("down", 0);
      } else {
        part("gate", 0);
        part("up", rows);
      }
    }
  }

  std::string renamed(const TensorName& name) const {
    const std::string rest(name.rest);
    const std::string suffix = rest.substr(rest.rfind('.') + 1);
    if (c_.places == NormPlaces::sandwich || c_.places == NormPlaces::post) {
      if (rest == "post_attention_layernorm.weight") return "attention_out_norm.weight";
      if (rest == "post_feedforward_layernorm.weight") return "ffn_out_norm.weight";
      if (rest == "pre_feedforward_layernorm.weight") return "post_attention_layernorm.weight";
    }
    if (rest == "block_sparse_moe.gate.weight" || rest == "block_sparse_moe.router.layer.weight" ||
        rest == "block_sparse_moe.router.weight")
      return "mlp.gate.weight";
    if (kind_.experts == ModelKind::Experts::by_number && name.expert >= 0 && name.is_ffn())
      return fmt::format("mlp.experts.{}.{}_proj.{}", name.expert,
                         name.part == TensorName::Part::gate ? "gate"
                         : name.part == TensorName::Part::up ? "up"
                                                             : "down",
                         suffix);
    return rest;
  }

  const ModelConfig c_;  // a copy: the view may outlive what it was made from
  const ModelKind& kind_;
  const TensorSource& source_;
  std::vector<int64_t> q_order_, kv_a_order_;
  TensorTable table_;
  std::vector<Origin> origins_;  // in the order of the table
  bool changes_ = false;
};

}  // namespace

std::unique_ptr<const TensorSource> canonical_tensors(const ModelConfig& config, const TensorSource& tensors) {
  if (config.why_not_trained().empty()) return nullptr;  // model/ writes these, under the names that it reads
  const ModelKind* kind = find_model_kind(config.model_type);
  OVERPROOF_CHECK(kind);
  auto view = std::make_unique<CanonicalTensors>(config, *kind, tensors);
  if (!view->changes()) return nullptr;
  return view;
}

std::string stored_module(const ModelConfig& config, std::string_view canonical) {
  const ModelKind* kind = find_model_kind(config.model_type);
  OVERPROOF_CHECK(kind);
  const auto starts = [&](std::string_view prefix) { return canonical.starts_with(prefix); };
  if (kind->is(ModelKind::phi3)) {
    if (canonical == "self_attn.q_proj" || canonical == "self_attn.k_proj" || canonical == "self_attn.v_proj")
      return "self_attn.qkv_proj";
    if (canonical == "mlp.gate_proj" || canonical == "mlp.up_proj") return "mlp.gate_up_proj";
  }
  if (starts("mlp.experts.")) {
    if (kind->experts == ModelKind::Experts::stay_fused) return {};
    std::string module(canonical);
    if (kind->experts == ModelKind::Experts::by_number) {
      const std::string with_suffix = fmt::format("{}.weight", canonical);
      const TensorName of_weight = TensorName::parse(with_suffix);
      module = expert_tensor_name(*kind, of_weight.expert, of_weight.part);
      module.resize(module.size() - std::string_view(".weight").size());
    }
    return module;
  }
  return std::string(canonical);
}

}  // namespace overproof
