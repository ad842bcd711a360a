#include "formats/gguf_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr std::string_view kRopeFactors = "rope_freqs.weight";

struct Name {
  std::string_view gguf, hf;
};

constexpr Name kWholeModel[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

// What follows "blk.N." and "model.layers.N.".
constexpr Name kLayer[] = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"post_attention_norm.weight", "post_attention_layernorm.weight"},  // glm4moe's name for it
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_v.bias", "self_attn.v_proj.bias"},
    {"attn_output.bias", "self_attn.o_proj.bias"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
    {"ffn_gate_inp.weight", "mlp.gate.weight"},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"},
    {"ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"},
    {"ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"},
};

// Stacked [experts, rows, columns].
constexpr Name kExperts[] = {
    {"ffn_gate_exps.weight", "gate_proj.weight"},
    {"ffn_up_exps.weight", "up_proj.weight"},
    {"ffn_down_exps.weight", "down_proj.weight"},
};

template <size_t N>
std::string_view look_up(const Name (&names)[N], std::string_view gguf) {
  for (const Name& n : names) {
    if (n.gguf == gguf) return n.hf;
  }
  return {};
}

}  // namespace

GgufCheckpoint::GgufCheckpoint(const fs::path& file) : file_(file), arch_(file_.text("general.architecture")) {
  if (arch_ != "llama" && arch_ != "qwen2" && arch_ != "qwen3" && arch_ != "glm4moe") {
    throw FormatError(file, -1, fmt::format("architecture '{}' is not supported; llama, qwen2, qwen3 and glm4moe are", arch_));
  }
  for (const GgufTensor& t : file_.tensors()) map_tensor(t);
}

void GgufCheckpoint::add(const std::string& name, const GgufTensor& tensor, std::vector<int64_t> shape, int64_t first_row,
                         int64_t half_head) {
  const DType dtype = tensor.type == GgmlType::f16 ? DType::f16 : tensor.type == GgmlType::bf16 ? DType::bf16 : DType::f32;
  if (!table_.add({name, dtype, std::move(shape)})) {
    throw FormatError(file_.path(), -1, fmt::format("tensor '{}': there are two of '{}'", tensor.name, name));
  }
  sources_.push_back({&tensor, first_row, half_head});
}

void GgufCheckpoint::map_tensor(const GgufTensor& tensor) {
  const auto refuse = [&](std::string_view cause) { throw FormatError(file_.path(), -1, fmt::format("tensor '{}' {}", tensor.name, cause)); };
  if (tensor.name == kRopeFactors) return;  // read by config()
  if (const std::string_view hf = look_up(kWholeModel, tensor.name); !hf.empty()) return add(std::string(hf), tensor, tensor.shape, 0, 0);

  const std::string_view name = tensor.name;
  const size_t dot = name.starts_with("blk.") ? name.find('.', 4) : std::string_view::npos;
  if (dot == std::string_view::npos) refuse("has no name in a Hugging Face checkpoint");
  const std::string_view layer = name.substr(4, dot - 4), part = name.substr(dot + 1);
  if (layer.empty() || layer.size() > 6 || !std::all_of(layer.begin(), layer.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    refuse("has no layer number");
  }
  const std::string prefix = fmt::format("model.layers.{}.", layer);

  const bool of_experts = part.find("exp") != std::string_view::npos || part == "ffn_gate_inp.weight";
  if (of_experts && arch_ != "glm4moe") refuse(fmt::format("makes this a mixture of experts, which is supported for glm4moe, not {}", arch_));
  if (const std::string_view hf = look_up(kExperts, part); !hf.empty()) {
    if (tensor.shape.size() != 3) refuse("does not have three dimensions");
    if (tensor.shape[0] > file_.integer(arch_ + ".expert_count")) refuse("has more experts than expert_count");
    for (int64_t e = 0; e < tensor.shape[0]; ++e) {
      add(fmt::format("{}mlp.experts.{}.{}", prefix, e, hf), tensor, {tensor.shape[1], tensor.shape[2]}, e * tensor.shape[1], 0);
    }
    return;
  }
  const std::string_view hf = look_up(kLayer, part);
  if (hf.empty()) refuse("has no name in a Hugging Face checkpoint");
  int64_t half_head = 0;
  if (arch_ == "llama" && (part.starts_with("attn_q.") || part.starts_with("attn_k."))) {
    const std::string heads_key = arch_ + ".attention.head_count";
    const int64_t heads = part.starts_with("attn_q.") ? file_.integer(heads_key)
                                                      : file_.integer(heads_key + "_kv", file_.integer(heads_key));
    if (heads <= 0 || tensor.shape[0] % heads != 0 || tensor.shape[0] / heads % 2 != 0) {
      refuse(fmt::format("has {} rows, which {} heads of even width do not divide", tensor.shape[0], heads));
    }
    half_head = tensor.shape[0] / heads / 2;
  }
  add(prefix + std::string(hf), tensor, tensor.shape, 0, half_head);
}

namespace {

/// The converter turned row (half h, j) of a head into row 2 j + h (llama.cpp, convert_hf_to_gguf.py, permute).
int64_t stored_row(int64_t row, int64_t half_head) {
  if (half_head == 0) return row;
  const int64_t in_head = row % (2 * half_head);
  return row - in_head + 2 * (in_head % half_head) + in_head / half_head;
}

int64_t stored_row_bytes(const GgufTensor& tensor, int64_t columns) {
  const GgmlLayout layout = ggml_layout(tensor.type);
  return columns / layout.block_values * layout.block_bytes;
}

}  // namespace

std::optional<RowExtent> GgufCheckpoint::extent(std::string_view name) const {
  const TensorInfo* t = table_.find(name);
  if (!t) return std::nullopt;
  const Source& source = sources_[size_t(t - table_.list().data())];
  const int64_t offset = source.tensor->data.data() - file_.bytes().data();
  if (t->shape.size() < 2) {
    // Blocks may span the rows of one element: such a vector is read whole.
    const int64_t values = t->elements();
    const GgmlLayout layout = ggml_layout(source.tensor->type);
    if (layout.block_values > 1) return std::nullopt;
    return RowExtent{0, offset, layout.block_bytes, source.half_head ? 2 * source.half_head : std::max<int64_t>(1, values)};
  }
  const int64_t row_bytes = stored_row_bytes(*source.tensor, t->row_elements());
  return RowExtent{0, offset + source.first_row * row_bytes, row_bytes, std::max<int64_t>(1, 2 * source.half_head)};
}

void GgufCheckpoint::decode_rows(std::string_view name, int64_t first_row, int64_t rows, std::span<const uint8_t> stored,
                                 std::span<float> out) const {
  const size_t i = table_.row_range(file_.path(), name, first_row, rows, out);
  const Source& source = sources_[i];
  const int64_t columns = table_.list()[i].row_elements(), row_bytes = stored_row_bytes(*source.tensor, columns);
  OVERPROOF_CHECK(int64_t(stored.size()) == rows * row_bytes);
  if (source.half_head == 0) return ggml_to_f32(source.tensor->type, stored.data(), out);
  OVERPROOF_CHECK(first_row % (2 * source.half_head) == 0);
  for (int64_t r = 0; r < rows; ++r) {
    ggml_to_f32(source.tensor->type, stored.data() + stored_row(r, source.half_head) * row_bytes, out.subspan(size_t(r * columns), size_t(columns)));
  }
}

void GgufCheckpoint::read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const {
  const size_t i = table_.row_range(file_.path(), name, first_row, rows, out);
  const Source& source = sources_[i];
  const GgufTensor& tensor = *source.tensor;
  if (tensor.shape.size() == 1) {  // blocks may span its rows of one element
    std::vector<float> all(size_t(tensor.elements()));
    ggml_to_f32(tensor.type, tensor.data.data(), all);
    for (int64_t r = 0; r < rows; ++r) out[size_t(r)] = all[size_t(stored_row(first_row + r, source.half_head))];
    return;
  }
  const int64_t columns = table_.list()[i].row_elements(), row_bytes = stored_row_bytes(tensor, columns);
  const auto at = [&](int64_t row) { return tensor.data.data() + (source.first_row + stored_row(row, source.half_head)) * row_bytes; };
  if (source.half_head == 0) return ggml_to_f32(tensor.type, at(first_row), out);
  for (int64_t r = 0; r < rows; ++r) ggml_to_f32(tensor.type, at(first_row + r), out.subspan(size_t(r * columns), size_t(columns)));
}

/// Llama 3 stores its RoPE scaling as divisors of each frequency. They are made from four numbers, of which three are the
/// same in every released checkpoint, so the four are recovered and checked; other divisors are refused.
Json GgufCheckpoint::rope_scaling(int64_t head_dim, double theta) const {
  const std::string prefix = arch_ + ".rope.scaling.";
  const std::string type = file_.text(prefix + "type", "none");
  const auto refuse = [&](const std::string& cause) { throw FormatError(file_.path(), -1, cause); };
  const GgufTensor* factors = file_.find(kRopeFactors);
  if (!factors) {
    if (type == "none") return {};
    if (type == "linear") return {{"rope_type", "linear"}, {"factor", file_.number(prefix + "factor")}};
    refuse(fmt::format("RoPE scaling '{}' is not supported", type));
  }
  if (type != "none") refuse(fmt::format("has both RoPE scaling '{}' and RoPE factors", type));
  if (factors->elements() != head_dim / 2) {
    refuse(fmt::format("'{}' has {} values for heads of width {}", kRopeFactors, factors->elements(), head_dim));
  }
  std::vector<float> divisor(size_t(head_dim / 2));
  ggml_to_f32(factors->type, factors->data.data(), divisor);
  const double factor = *std::max_element(divisor.begin(), divisor.end()), low = 1, high = 4, original = 8192;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, 2.0 * double(i) / double(head_dim));
    const double smooth = std::clamp((original / wavelength - low) / (high - low), 0.0, 1.0);
    const double expected = 1 / ((1 - smooth) / factor + smooth);
    if (!(std::abs(divisor[size_t(i)] - expected) <= 1e-4 * expected)) {
      refuse(fmt::format("'{}' is not Llama 3's scaling (factor {} at {} positions): value {} is {}, not {}", kRopeFactors, factor,
                         original, i, divisor[size_t(i)], expected));
    }
  }
  return {{"rope_type", "llama3"}, {"factor", factor}, {"low_freq_factor", low}, {"high_freq_factor", high},
          {"original_max_position_embeddings", int64_t(original)}};
}

Json GgufCheckpoint::config() const {
  const auto key = [&](std::string_view k) { return fmt::format("{}.{}", arch_, k); };
  const int64_t hidden = file_.integer(key("embedding_length")), heads = file_.integer(key("attention.head_count"));
  if (hidden <= 0 || heads <= 0) throw FormatError(file_.path(), -1, "embedding_length and attention.head_count must be positive");
  const int64_t head_dim = file_.integer(key("attention.key_length"), hidden / heads);
  if (head_dim <= 0 || head_dim != file_.integer(key("attention.value_length"), head_dim)) {
    throw FormatError(file_.path(), -1, "keys and values of different widths are not supported");
  }
  const TensorInfo* embedding = find("model.embed_tokens.weight");
  if (!embedding || embedding->shape.size() != 2) throw FormatError(file_.path(), -1, "has no matrix token_embd.weight");
  const double theta = file_.number(key("rope.freq_base"), 10000.0);
  const int64_t rotary = file_.integer(key("rope.dimension_count"), head_dim);
  if (rotary != head_dim && arch_ != "glm4moe") throw FormatError(file_.path(), -1, "RoPE over a part of the head is not supported");

  struct Kind {
    std::string_view arch, model_type, architecture;
  };
  constexpr Kind kinds[] = {{"llama", "llama", "LlamaForCausalLM"},
                            {"qwen2", "qwen2", "Qwen2ForCausalLM"},
                            {"qwen3", "qwen3", "Qwen3ForCausalLM"},
                            {"glm4moe", "glm4_moe", "Glm4MoeForCausalLM"}};
  const Kind& kind = *std::find_if(std::begin(kinds), std::end(kinds), [&](const Kind& k) { return k.arch == arch_; });

  Json c = {{"architectures", {kind.architecture}},
            {"model_type", kind.model_type},
            {"hidden_act", "silu"},
            {"hidden_size", hidden},
            {"intermediate_size", file_.integer(key("feed_forward_length"))},
            {"num_hidden_layers", file_.integer(key("block_count"))},
            {"num_attention_heads", heads},
            {"num_key_value_heads", file_.integer(key("attention.head_count_kv"), heads)},
            {"head_dim", head_dim},
            {"vocab_size", embedding->shape[0]},
            {"max_position_embeddings", file_.integer(key("context_length"))},
            {"rms_norm_eps", file_.number(key("attention.layer_norm_rms_epsilon"))},
            {"rope_theta", theta},
            {"attention_bias", find("model.layers.0.self_attn.q_proj.bias") != nullptr},
            {"mlp_bias", false},
            {"tie_word_embeddings", find("lm_head.weight") == nullptr},
            {"torch_dtype", "float32"}};
  Json scaling = rope_scaling(head_dim, theta);
  if (scaling.is_object()) c["rope_scaling"] = scaling;
  else scaling = {{"rope_type", "default"}};
  scaling["rope_theta"] = theta;
  if (const int64_t window = file_.integer(key("attention.sliding_window"), 0); window > 0) c["sliding_window"] = window;
  const auto token = [&](std::string_view name, std::string_view k) {
    if (file_.has(k)) c[std::string(name)] = file_.integer(k);
  };
  token("bos_token_id", "tokenizer.ggml.bos_token_id");
  token("eos_token_id", "tokenizer.ggml.eos_token_id");
  token("pad_token_id", "tokenizer.ggml.padding_token_id");

  if (arch_ == "glm4moe") {
    if (file_.integer(key("nextn_predict_layers"), 0) != 0) throw FormatError(file_.path(), -1, "layers for predicting further tokens are not supported");
    // llama.cpp numbers the gating functions; 2 is the sigmoid, the only one this architecture has.
    if (file_.integer(key("expert_gating_func"), 2) != 2) throw FormatError(file_.path(), -1, "expert_gating_func is not sigmoid (2)");
    c["use_qk_norm"] = find("model.layers.0.self_attn.q_norm.weight") != nullptr;
    c["partial_rotary_factor"] = scaling["partial_rotary_factor"] = double(rotary) / double(head_dim);
    c["n_routed_experts"] = file_.integer(key("expert_count"));
    c["num_experts_per_tok"] = file_.integer(key("expert_used_count"));
    c["n_shared_experts"] = file_.integer(key("expert_shared_count"), 0);
    c["moe_intermediate_size"] = file_.integer(key("expert_feed_forward_length"));
    c["routed_scaling_factor"] = file_.number(key("expert_weights_scale"), 1.0);
    c["norm_topk_prob"] = file_.boolean(key("expert_weights_norm"), false);
    c["first_k_dense_replace"] = file_.integer(key("leading_dense_block_count"), 0);
    c["n_group"] = file_.integer(key("expert_group_count"), 1);
    c["topk_group"] = file_.integer(key("expert_group_used_count"), 1);
    c["num_nextn_predict_layers"] = 0;
  }
  c["rope_parameters"] = scaling;
  return c;
}

}  // namespace overproof
