#include "formats/gguf_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "formats/folder_contents.h"
#include "formats/gguf_kind.h"

namespace overproof {
namespace {

constexpr std::string_view kSplitCount = "split.count", kSplitNumber = "split.no", kSplitTensors = "split.tensors.count";

const ModelKind& family_of(const GgufFile& file) {
  const std::string arch = file.text("general.architecture");
  if (arch == ungated_gguf_kind().arch && file.integer(arch + ".expert_shared_feed_forward_length", 0) > 0) return ungated_gguf_kind();
  const ModelKind* family = kind_of_gguf(arch, file.integer(arch + ".expert_count", 0) > 0);
  if (!family)
    throw FormatError(file.path(), -1, fmt::format("architecture '{}' is not supported; {} are", arch, list_model_kinds(true)));
  return *family;
}

/// The file, or all parts of the model that it is a part of.
std::vector<GgufFile> open_parts(const fs::path& file) {
  std::vector<GgufFile> parts;
  GgufFile given(file);
  const int64_t count = given.integer(kSplitCount, 1);
  if (count <= 1) {
    parts.push_back(std::move(given));
    return parts;
  }
  const std::vector<fs::path> names = gguf_part_names(file);
  if (int64_t(names.size()) != count)
    throw FormatError(file, -1,
                      fmt::format("is part {} of {} of a model, and its name does not end in '-{:05}-of-{:05}.gguf', by which the other "
                                  "parts are found",
                                  given.integer(kSplitNumber) + 1, count, given.integer(kSplitNumber) + 1, count));
  int64_t tensors = 0;
  for (int64_t i = 0; i < count; ++i) {
    const fs::path& name = names[size_t(i)];
    if (!fs::exists(name))
      throw FormatError(file, -1,
                        fmt::format("is one of {} parts of a model, of which '{}' is not there; download all of them", count,
                                    name.filename().string()));
    parts.emplace_back(name);
    if (parts.back().integer(kSplitCount, 1) != count || parts.back().integer(kSplitNumber, -1) != i)
      throw FormatError(name, -1, fmt::format("is not part {} of {}, as its name states", i + 1, count));
    tensors += int64_t(parts.back().tensors().size());
  }
  if (const int64_t all = parts.front().integer(kSplitTensors, tensors); all != tensors)
    throw FormatError(file, -1, fmt::format("its parts have {} tensors, and {} states {}", tensors, kSplitTensors, all));
  return parts;
}

}  // namespace

GgufCheckpoint::GgufCheckpoint(const fs::path& file) : parts_(open_parts(file)), family_(family_of(file_)), arch_(family_.arch) {
  for (const GgufFile& part : parts_) {
    files_.push_back(part.path());
    for (const GgufTensor& t : part.tensors()) map_tensor(t);
    ++part_;
  }
}

const GgufTensor* GgufCheckpoint::find_stored(std::string_view name) const {
  for (const GgufFile& part : parts_)
    if (const GgufTensor* tensor = part.find(name)) return tensor;
  return nullptr;
}

void GgufCheckpoint::add(const std::string& name, const GgufTensor& tensor, std::vector<int64_t> shape, Source source) {
  const DType dtype = tensor.type == GgmlType::f16 ? DType::f16 : tensor.type == GgmlType::bf16 ? DType::bf16 : DType::f32;
  if (!table_.add({name, dtype, std::move(shape)})) {
    throw FormatError(file_.path(), -1, fmt::format("tensor '{}': there are two of '{}'", tensor.name, name));
  }
  source.tensor = &tensor;
  source.part = part_;
  sources_.push_back(source);
}

void GgufCheckpoint::refuse(const GgufTensor& tensor, std::string_view cause) const {
  throw FormatError(file_.path(), -1, fmt::format("tensor '{}' {}", tensor.name, cause));
}

void GgufCheckpoint::map_tensor(const GgufTensor& tensor) {
  if (tensor.name == kGgufRopeFactors) return;  // read by config()
  for (const TensorEntry& name : model_tensors()) {
    if (!family_.is(name.kinds)) continue;
    if (name.gguf == tensor.name) return add(std::string(name.hf), tensor, tensor.shape, {});
  }
  const std::string_view name = tensor.name;
  const size_t dot = name.starts_with("blk.") ? name.find('.', 4) : std::string_view::npos;
  if (dot == std::string_view::npos) refuse(tensor, "has no name in a Hugging Face checkpoint");
  const std::string_view layer = name.substr(4, dot - 4), part = name.substr(dot + 1);
  if (layer.empty() || layer.size() > 6 ||
      !std::all_of(layer.begin(), layer.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    refuse(tensor, "has no layer number");
  }
  const std::string prefix = fmt::format("model.layers.{}.", layer), blk = fmt::format("blk.{}.", layer);
  const bool latent = part == "attn_k_b.weight" || part == "attn_v_b.weight";
  if (latent && family_.latent_attention) return map_latent(tensor, blk, prefix);
  for (const GgufExpertName& expert : gguf_expert_names()) {
    if (expert.gguf == part) return map_experts(tensor, expert.part, blk, prefix);
  }
  const std::string_view hf = hf_layer_name(family_, part);
  if (hf.empty() && (part.find("exp") != std::string_view::npos || part == "ffn_gate_inp.weight")) {
    refuse(tensor, fmt::format("makes this a mixture of experts, which '{}' without experts is not", arch_));
  }
  if (hf.empty()) refuse(tensor, "has no name in a Hugging Face checkpoint");
  int64_t half_head = 0;
  if (family_.interleaved_rope && (part.starts_with("attn_q.") || part.starts_with("attn_k."))) {
    const std::string heads_key = arch_ + ".attention.head_count";
    const int64_t heads =
        part.starts_with("attn_q.") ? file_.integer(heads_key) : file_.integer(heads_key + "_kv", file_.integer(heads_key));
    if (heads <= 0 || tensor.shape[0] % heads != 0 || tensor.shape[0] / heads % 2 != 0) {
      refuse(tensor, fmt::format("has {} rows, which {} heads of even width do not divide", tensor.shape[0], heads));
    }
    half_head = tensor.shape[0] / heads / 2;
  }
  std::vector<int64_t> shape = tensor.shape;
  if (part == "ffn_gate_inp_shexp.weight" && shape.size() == 1) shape.insert(shape.begin(), 1);  // a Linear with one output
  const bool ungated = writes_ungated(family_) && part == "ffn_down_shexp.weight" && shape.size() == 2;
  if (ungated) add(prefix + "mlp.shared_expert_gate.weight", tensor, {1, shape[0]}, {.factor = 0.0f});
  add(prefix + std::string(hf), tensor, shape, {.half_head = half_head, .factor = ungated ? 2.0f : 1.0f});
}

void GgufCheckpoint::map_experts(const GgufTensor& tensor, TensorName::Part part, const std::string& blk,
                                 const std::string& prefix) {
  if (!family_.has_experts())
    refuse(tensor, fmt::format("makes this a mixture of experts, which '{}' without experts is not", arch_));
  if (tensor.shape.size() != 3) refuse(tensor, "does not have three dimensions");
  const std::vector<int64_t>& shape = tensor.shape;
  if (shape[0] > file_.integer(arch_ + ".expert_count")) refuse(tensor, "has more experts than expert_count");
  if (family_.experts != ModelKind::Experts::stay_fused) {
    for (int64_t e = 0; e < shape[0]; ++e) {
      add(prefix + expert_tensor_name(family_, e, part), tensor, {shape[1], shape[2]}, {.first_row = e * shape[1]});
    }
    return;
  }
  if (part == TensorName::Part::down) return add(prefix + std::string(hf_fused_down(family_)), tensor, shape, {});
  const GgufTensor* other = find_stored(blk + (part == TensorName::Part::gate ? "ffn_up_exps.weight" : "ffn_gate_exps.weight"));
  if (!other || other->shape != shape) refuse(tensor, "has no counterpart of the same shape: gate and up make one tensor");
  if (part == TensorName::Part::up) return;  // comes with the gate
  add(prefix + std::string(hf_fused_gate_up(family_)), tensor, {shape[0], 2 * shape[1], shape[2]}, {.second = other});
}

/// k_b [heads, rank, nope] and v_b [heads, value, rank] are kv_b_proj [heads x (nope + value), rank].
void GgufCheckpoint::map_latent(const GgufTensor& tensor, const std::string& blk, const std::string& prefix) {
  const bool key = tensor.name.ends_with("attn_k_b.weight");
  const GgufTensor* other = find_stored(blk + (key ? "attn_v_b.weight" : "attn_k_b.weight"));
  const GgufTensor *k = key ? &tensor : other, *v = key ? other : &tensor;
  if (!other || k->shape.size() != 3 || v->shape.size() != 3 || k->shape[0] != v->shape[0] || k->shape[1] != v->shape[2]) {
    refuse(tensor, "has no counterpart that fits: k_b and v_b make one tensor");
  }
  if (!key) return;  // comes with k_b
  add(prefix + "self_attn.kv_b_proj.weight", tensor, {k->shape[0] * (k->shape[2] + v->shape[1]), k->shape[1]}, {.second = v});
}

namespace {

int64_t stored_row_bytes(const GgufTensor& tensor, int64_t columns) {
  const GgmlLayout layout = ggml_layout(tensor.type);
  return columns / layout.block_values * layout.block_bytes;
}

/// Rows of the last dimension, over all dimensions before it.
void read_matrix_rows(const GgufTensor& tensor, int64_t first, int64_t rows, std::span<float> out) {
  ggml_to_f32(tensor.type, tensor.data.data() + first * stored_row_bytes(tensor, tensor.shape.back()),
              out.first(size_t(rows * tensor.shape.back())));
}

/// Experts [first, first + experts): the rows of `gate`, then those of `up`.
void read_gate_up(const GgufTensor& gate, const GgufTensor& up, int64_t first, int64_t experts, std::span<float> out) {
  const int64_t rows = gate.shape[1], half = rows * gate.shape[2];
  for (int64_t e = 0; e < experts; ++e) {
    read_matrix_rows(gate, (first + e) * rows, rows, out.subspan(size_t(2 * e * half)));
    read_matrix_rows(up, (first + e) * rows, rows, out.subspan(size_t((2 * e + 1) * half)));
  }
}

/// Rows of kv_b_proj: of each head first the keys, which are stored transposed in `k`, then the values.
void read_latent(const GgufTensor& k, const GgufTensor& v, int64_t first, int64_t rows, std::span<float> out) {
  const int64_t rank = k.shape[1], nope = k.shape[2], value = v.shape[1];
  std::vector<float> keys;
  int64_t held = -1;  // the head in `keys`
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = (first + r) / (nope + value), in_head = (first + r) % (nope + value);
    const std::span<float> to = out.subspan(size_t(r * rank), size_t(rank));
    if (in_head >= nope) {
      read_matrix_rows(v, head * value + in_head - nope, 1, to);
      continue;
    }
    if (head != held) {
      keys.resize(size_t(rank * nope));
      read_matrix_rows(k, head * rank, rank, keys);
      held = head;
    }
    for (int64_t c = 0; c < rank; ++c) to[size_t(c)] = keys[size_t(c * nope + in_head)];
  }
}

}  // namespace

std::optional<RowExtent> GgufCheckpoint::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const Source& source = sources_[table_.index_of(*t)];
  if (source.second || source.factor != 1.0f) return std::nullopt;
  const int64_t offset = source.tensor->data.data() - parts_[size_t(source.part)].bytes().data();
  if (t->shape.size() < 2) {
    // Blocks may span the rows of one element: such a vector is read whole.
    const int64_t values = t->elements();
    const GgmlLayout layout = ggml_layout(source.tensor->type);
    if (layout.block_values > 1) return std::nullopt;
    return RowExtent{source.part, offset, layout.block_bytes, source.half_head ? 2 * source.half_head : std::max<int64_t>(1, values)};
  }
  const int64_t row_bytes = stored_row_bytes(*source.tensor, t->row_elements());
  return RowExtent{source.part, offset + source.first_row * row_bytes, row_bytes, std::max<int64_t>(1, 2 * source.half_head)};
}

void GgufCheckpoint::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                                 std::span<float> out) const {
  const size_t i = table_.row_range(file_.path(), name, first_row, rows, out);
  const Source& source = sources_[i];
  if (source.second || source.factor != 1.0f) return read_f32(name, first_row, rows, out);  // it has no extent
  const int64_t columns = table_.list()[i].row_elements(), row_bytes = stored_row_bytes(*source.tensor, columns);
  OVERPROOF_CHECK(int64_t(stored.size()) == rows * row_bytes);
  if (source.half_head == 0) return ggml_to_f32(source.tensor->type, stored.data(), out);
  OVERPROOF_CHECK(first_row % (2 * source.half_head) == 0);
  for (int64_t r = 0; r < rows; ++r) {
    ggml_to_f32(source.tensor->type, stored.data() + interleaved_row(r, source.half_head) * row_bytes,
                out.subspan(size_t(r * columns), size_t(columns)));
  }
}

void GgufCheckpoint::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const size_t i = table_.row_range(file_.path(), name, first_row, rows, out);
  const Source& source = sources_[i];
  const GgufTensor& tensor = *source.tensor;
  if (source.factor == 0) {
    std::ranges::fill(out, 0.0f);
    return;
  }
  if (source.second) {
    return table_.list()[i].shape.size() == 3 ? read_gate_up(tensor, *source.second, first_row, rows, out)
                                              : read_latent(tensor, *source.second, first_row, rows, out);
  }
  if (table_.list()[i].shape.size() == 1) {  // blocks may span its rows of one element
    std::vector<float> all(size_t(tensor.elements()));
    ggml_to_f32(tensor.type, tensor.data.data(), all);
    for (int64_t r = 0; r < rows; ++r) out[size_t(r)] = all[size_t(interleaved_row(first_row + r, source.half_head))];
    return;
  }
  const int64_t columns = table_.list()[i].row_elements(), row_bytes = stored_row_bytes(tensor, columns);
  const auto at = [&](int64_t row) {
    return tensor.data.data() + (source.first_row + interleaved_row(row, source.half_head)) * row_bytes;
  };
  if (source.half_head == 0) {
    ggml_to_f32(tensor.type, at(first_row), out);
    if (source.factor != 1.0f)
      for (float& value : out) value *= source.factor;
    return done_reading(at(first_row), size_t(rows * row_bytes));
  }
  for (int64_t r = 0; r < rows; ++r)
    ggml_to_f32(tensor.type, at(first_row + r), out.subspan(size_t(r * columns), size_t(columns)));
}

std::optional<CodeLayout> GgufCheckpoint::code_layout(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t || t->shape.size() != 2) return std::nullopt;
  const Source& source = sources_[table_.index_of(*t)];
  return source.second || source.factor != 1.0f ? std::nullopt : ggml_code_layout(source.tensor->type);
}

void GgufCheckpoint::read_codes(std::string_view name, int64_t first_row, int64_t rows, const CodeRows& out) const {
  const std::optional<CodeLayout> layout = code_layout(name);
  OVERPROOF_CHECK(layout.has_value());
  const TensorInfo& t = *table_.find(name);
  const Source& source = sources_[table_.index_of(t)];
  const int64_t columns = t.row_elements(), blocks = layout->blocks(columns), row_bytes = stored_row_bytes(*source.tensor, columns);
  OVERPROOF_CHECK(first_row >= 0 && first_row + rows <= t.shape[0] && int64_t(out.codes.size()) == rows * columns);
  const auto row_of = [&](auto all, int64_t r, int64_t width) { return all.subspan(size_t(r * width), size_t(width)); };
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* stored =
        source.tensor->data.data() + (source.first_row + interleaved_row(first_row + r, source.half_head)) * row_bytes;
    ggml_to_codes(source.tensor->type, stored,
                  {row_of(out.codes, r, columns), row_of(out.scales, r, blocks),
                   layout->has_offsets ? row_of(out.offsets, r, blocks) : std::span<float>()});
  }
}

}  // namespace overproof
