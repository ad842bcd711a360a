#include "formats/gguf_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/json_object.h"
#include "formats/gguf_config.h"
#include "formats/gguf_kind.h"
#include "formats/gguf_names.h"
#include "formats/model_check.h"
#include "formats/quantization_config.h"

namespace overproof {
namespace {

/// llama.cpp's llama_ftype: what the file is mostly made of.
int64_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::f32:
      return 0;
    case GgmlType::f16:
      return 1;
    case GgmlType::q4_0:
      return 2;
    case GgmlType::q4_1:
      return 3;
    case GgmlType::q8_0:
      return 7;
    case GgmlType::q5_0:
      return 8;
    case GgmlType::q5_1:
      return 9;
    case GgmlType::q4_k:
      return 15;
    case GgmlType::q5_k:
      return 17;
    case GgmlType::q6_k:
      return 18;
    case GgmlType::bf16:
      return 32;
  }
  return 0;
}

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, const GgufChoice& choice)
      : source_(*checkpoint.tensors), path_(checkpoint.path), choice_(choice), config_(*checkpoint.config) {
    if (std::filesystem::is_directory(path_) && std::filesystem::exists(path_ / "config.json"))
      config_file_ = path_ / "config.json";
    else config_file_ = path_;
  }

  GgufPlan make() {
    const std::string type = JsonObject(config_, config_file_, "", JsonNull::absent).text("model_type", "");
    family_ = gguf_kind(config_, source_);
    if (!family_) {
      throw FormatError(config_file_, -1,
                        fmt::format("model_type '{}' cannot be written as GGUF; supported: {}", type, list_model_kinds(false)));
    }
    const TensorInfo& embedding = required("model.embed_tokens.weight");
    if (embedding.shape.size() != 2) refuse("'model.embed_tokens.weight' is not a matrix");
    const int64_t layers = config_.contains("num_hidden_layers") && config_["num_hidden_layers"].is_number_integer()
                               ? config_["num_hidden_layers"].get<int64_t>()
                               : 0;  // checked when the keys are made
    int64_t nextn = 0;
    while (family_->mixture == ModelKind::Mixture::leading_dense &&
           source_.find(fmt::format("model.layers.{}.eh_proj.weight", layers + nextn)))
      ++nextn;
    shape_ = add_architecture_keys(config_, config_file_, *family_, embedding.shape[0], nextn, plan_.metadata);
    plan_.notes = shape_.notes;
    expect(embedding, {embedding.shape[0], shape_.hidden});

    for (const TensorEntry& name : model_tensors()) {
      if (!family_->is(name.kinds)) continue;
      if (name.hf == "lm_head.weight") add_head(name);
      else add_same(std::string(name.gguf), std::string(name.hf), 0, true);
    }
    if (!shape_.rope_factors.empty()) {
      plan_.outputs.push_back(
          {{std::string(kGgufRopeFactors), GgmlType::f32, {int64_t(shape_.rope_factors.size())}}, {}, shape_.rope_factors});
    }
    for (int64_t layer = 0; layer < shape_.layers + nextn; ++layer) add_layer(layer);
    account_for_all();
    add_file_type();
    for (const GgufOutput& output : plan_.outputs) plan_.values += output.info.elements();
    return std::move(plan_);
  }

 private:
  [[noreturn]] void refuse(const std::string& cause) const { throw FormatError(path_, -1, cause); }
  const TensorInfo& required(const std::string& name) const {
    const TensorInfo* info = source_.find(name);
    if (!info) refuse(fmt::format("has no tensor '{}', which its config.json requires", name));
    return *info;
  }
  void expect(const TensorInfo& info, const std::vector<int64_t>& shape) const {
    if (info.shape != shape) {
      refuse(fmt::format("tensor '{}' has shape [{}]; its config.json requires [{}]", info.name, fmt::join(info.shape, ", "),
                         fmt::join(shape, ", ")));
    }
  }

  /// Vectors are added to f32 activations and routers decide which experts run: both stay F32, as llama.cpp's converter has it.
  GgmlType type_of(const std::string& gguf, const std::string& source, const GgufTensorInfo& info) const {
    if (info.shape.size() == 1 || gguf.ends_with("ffn_gate_inp.weight")) return GgmlType::f32;
    const GgmlType type = choice_(source, info);
    return info.shape.back() % ggml_layout(type).block_values == 0 ? type : GgmlType::f16;
  }

  void add(const std::string& gguf, std::vector<int64_t> shape, std::vector<GgufPart> parts) {
    GgufTensorInfo info{gguf, GgmlType::f32, std::move(shape)};
    info.type = type_of(gguf, parts[0].source, info);
    for (const GgufPart& part : parts) placed_.insert(part.source);
    plan_.outputs.push_back({std::move(info), std::move(parts), {}});
  }

  /// A tensor that keeps its shape; false when it is missing and optional.
  bool add_same(const std::string& gguf, const std::string& hf, int64_t half_head, bool needed, float factor = 1.0f) {
    const TensorInfo* info = needed ? &required(hf) : source_.find(hf);
    if (!info) return false;
    std::vector<int64_t> shape = info->shape;
    if (gguf.ends_with("ffn_gate_inp_shexp.weight") && shape.size() == 2 && shape[0] == 1) shape.erase(shape.begin());
    if (shape.empty() || shape.size() > 2 || info->elements() == 0)
      refuse(fmt::format("tensor '{}' is neither a vector nor a matrix", hf));
    add(gguf, shape, {{hf, 0, info->elements() / info->shape.back(), half_head, false, factor}});
    return true;
  }

  /// A tensor that the model does not use: llama.cpp would use it, because the file has it.
  void leave_out(const std::string& hf) {
    if (!source_.find(hf)) return;
    plan_.skipped.push_back(hf);
    placed_.insert(hf);
  }

  /// The head is left out where it is the embedding; some loaders always need one.
  void add_head(const TensorEntry& name) {
    if (shape_.tied) leave_out(std::string(name.hf));
    if (!shape_.tied) add_same(std::string(name.gguf), std::string(name.hf), 0, true);
    else if (family_->head_in_gguf) add_same(std::string(name.gguf), "model.embed_tokens.weight", 0, true);
  }

  void add_layer(int64_t layer) {
    const std::string gguf = fmt::format("blk.{}.", layer), hf = fmt::format("model.layers.{}.", layer);
    const bool moe = family_->has_experts() && layer >= shape_.dense_layers;
    for (const TensorEntry& name : layer_tensors()) {
      if (!family_->is(name.kinds) || name.gguf.empty()) continue;
      const bool ungated = writes_ungated(*family_);
      if (use_of(*family_, name.hf, config_) == TensorUse::unused || (ungated && name.hf == "mlp.shared_expert_gate.weight")) {
        leave_out(hf + std::string(name.hf));
        continue;
      }
      using Need = TensorEntry::Need;
      const bool needed = name.need == Need::always || (name.need == Need::dense && !moe) || (name.need == Need::moe && moe);
      const bool misplaced = (name.need == Need::dense && moe) ||
                             ((name.need == Need::moe || name.need == Need::moe_optional) && !moe) ||
                             (name.need == Need::nextn && layer < shape_.layers);
      if (misplaced) continue;  // and so left over, which account_for_all() reports
      const bool q = name.gguf.starts_with("attn_q."), k = name.gguf.starts_with("attn_k.");
      const std::string source = hf + std::string(name.hf);
      if ((q || k) && !family_->latent_attention) {
        if (const TensorInfo* info = source_.find(source))
          expect_rows(*info, (q ? shape_.heads : shape_.kv_heads) * shape_.head_dim);
      }
      add_same(gguf + std::string(name.gguf), source, family_->interleaved_rope && (q || k) ? shape_.head_dim / 2 : 0, needed,
               ungated && name.hf == "mlp.shared_expert.down_proj.weight" ? 0.5f : 1.0f);
    }
    if (family_->latent_attention) add_latent(gguf, hf);
    if (moe) add_experts(gguf, hf);
  }

  void expect_rows(const TensorInfo& info, int64_t rows) const {
    if (info.shape.empty() || info.shape[0] != rows) {
      refuse(fmt::format("tensor '{}' has {} rows; its config.json requires {}", info.name,
                         info.shape.empty() ? 0 : info.shape[0], rows));
    }
  }

  /// kv_b_proj, [heads x (nope + value), rank], as k_b [heads, rank, nope], which turns queries into the latent space, and
  /// v_b [heads, value, rank].
  void add_latent(const std::string& gguf, const std::string& hf) {
    const std::string source = hf + "self_attn.kv_b_proj.weight";
    const int64_t nope = shape_.qk_nope, value = shape_.v_head_dim;
    expect(required(source), {shape_.heads * (nope + value), shape_.kv_rank});
    std::vector<GgufPart> keys, values;
    for (int64_t head = 0; head < shape_.heads; ++head) {
      keys.push_back({source, head * (nope + value), nope, 0, true});
      values.push_back({source, head * (nope + value) + nope, value});
    }
    add(gguf + "attn_k_b.weight", {shape_.heads, shape_.kv_rank, nope}, std::move(keys));
    add(gguf + "attn_v_b.weight", {shape_.heads, value, shape_.kv_rank}, std::move(values));
  }

  void add_experts(const std::string& gguf, const std::string& hf) {
    const bool fused = source_.find(hf + std::string(hf_fused_gate_up(*family_))) != nullptr ||
                       family_->experts == ModelKind::Experts::stay_fused;
    for (const GgufExpertName& name : gguf_expert_names()) {
      if (fused) add_fused(gguf + std::string(name.gguf), hf, name.part);
      else add_stack(gguf + std::string(name.gguf), hf, name.part);
    }
  }

  void add_stack(const std::string& gguf, const std::string& hf, TensorName::Part part) {
    std::vector<GgufPart> parts;
    std::vector<int64_t> shape;
    for (int64_t expert = 0; expert < shape_.experts; ++expert) {
      const TensorInfo& info = required(hf + expert_tensor_name(*family_, expert, part));
      if (expert == 0) shape = info.shape;
      if (shape.size() != 2 || info.elements() == 0) refuse(fmt::format("tensor '{}' is not a matrix", info.name));
      expect(info, shape);
      parts.push_back({info.name, 0, info.shape[0]});
    }
    add(gguf, {shape_.experts, shape[0], shape[1]}, std::move(parts));
  }

  void add_fused(const std::string& gguf, const std::string& hf, TensorName::Part part) {
    const bool down = part == TensorName::Part::down;
    const TensorInfo& info = required(hf + std::string(down ? hf_fused_down(*family_) : hf_fused_gate_up(*family_)));
    if (info.shape.size() != 3 || info.shape[0] != shape_.experts || info.elements() == 0 || (!down && info.shape[1] % 2 != 0) ||
        info.shape[down ? 1 : 2] != shape_.hidden) {
      refuse(fmt::format("tensor '{}' of shape [{}] does not hold {} experts", info.name, fmt::join(info.shape, ", "),
                         shape_.experts));
    }
    const int64_t rows = down ? info.shape[1] : info.shape[1] / 2;
    std::vector<GgufPart> parts;
    for (int64_t expert = 0; expert < shape_.experts; ++expert) {
      parts.push_back({info.name, expert * info.shape[1] + (part == TensorName::Part::up ? rows : 0), rows});
    }
    add(gguf, {shape_.experts, rows, info.shape[2]}, std::move(parts));
  }

  void account_for_all() {
    std::vector<std::string> scales;
    for (const TensorInfo& info : source_.tensors()) {
      if (placed_.contains(info.name)) continue;
      // Of no part in the function that the weights compute, and llama.cpp rounds activations in its own way.
      if (is_activation_parameter(info.name)) scales.push_back(info.name);
      else if (info.name.ends_with("rotary_emb.inv_freq")) plan_.skipped.push_back(info.name);  // derived from rope_theta; in old checkpoints
      else
        throw FormatError(path_, -1,
                          fmt::format("llama.cpp has no place for tensor '{}' in a model of the architecture '{}', and without it the model would "
                                      "compute something else",
                                      info.name, family_->arch));
    }
    if (!scales.empty())
      plan_.notes.push_back(fmt::format("not written: {} scales by which the model's quantizer rounds activations or the KV cache ({}{})",
                                        scales.size(), scales[0], scales.size() > 1 ? ", ..." : ""));
  }

  void add_file_type() {
    std::map<GgmlType, int64_t> values;
    for (const GgufOutput& output : plan_.outputs) values[output.info.type] += output.info.elements();
    const auto most = std::ranges::max_element(values, {}, [](const auto& entry) { return entry.second; });
    plan_.metadata.add_text("general.type", "model");
    plan_.metadata.add_u32("general.file_type", file_type(most->first));
    plan_.metadata.add_u32("general.quantization_version", 2);  // GGML_QNT_VERSION
  }

  const TensorSource& source_;
  const std::filesystem::path path_;
  std::filesystem::path config_file_;
  const GgufChoice& choice_;
  const Json& config_;
  const ModelKind* family_ = nullptr;
  GgufShape shape_;
  GgufPlan plan_;
  std::set<std::string> placed_;
};

}  // namespace

std::vector<GgufTensorInfo> GgufPlan::infos() const {
  std::vector<GgufTensorInfo> list;
  for (const GgufOutput& output : outputs) list.push_back(output.info);
  return list;
}

GgufPlan plan_gguf(const Checkpoint& checkpoint, const GgufChoice& choice) { return Planner(checkpoint, choice).make(); }

}  // namespace overproof
