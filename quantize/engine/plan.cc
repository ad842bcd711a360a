#include "quantize/engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/json_object.h"
#include "formats/architecture.h"
#include "formats/tensor_name.h"

namespace overproof {
namespace {

constexpr std::string_view kWeight = ".weight";

/// Modules that are never quantized, as transformers' and llm-compressor's configs list them.
constexpr std::string_view kHeadModule = "lm_head", kGateModule = "mlp.gate";
constexpr const char* kHeadTarget = "re:^lm_head$";
constexpr const char* kEmbeddingPattern = "re:.*embed_tokens.*";
constexpr const char* kGatePattern = "re:.*mlp.gate$";

bool matches_any(std::string_view text, const StringList& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& p) { return matches_pattern(text, p); });
}

std::string module_of(const TensorInfo& weight) { return weight.name.substr(0, weight.name.size() - kWeight.size()); }

/// Which tensors may be quantized: matrices with the role of a Linear weight.
class Weights {
 public:
  Weights(const Checkpoint& model, Container container)
      : architecture_(*model.config),
        embedding_(container == Container::gguf),
        one_dtype_(container == Container::deepseek_fp8),
        tied_(JsonObject(*model.config, model.path, "", JsonNull::absent).flag("tie_word_embeddings", false)) {}
  const Architecture& architecture() const { return architecture_; }
  /// A matrix that loaders take for a Linear weight unless the config lists it as ignored.
  static bool is_matrix(const TensorInfo& info) {
    return info.shape.size() == 2 && info.shape[0] > 0 && info.shape[1] > 0 && info.name.ends_with(kWeight);
  }
  bool may_quantize(const TensorInfo& info) const {
    const TensorRole role = architecture_.role(info);
    // `other`: a matrix that no table knows, but that the user's pattern matches; where all is guessed, what was left out of the guess.
    return is_matrix(info) && (role == TensorRole::linear || role == TensorRole::expert_linear ||
                               (role == TensorRole::other && architecture_.known()) ||
                               (role == TensorRole::head && !tied_) || (role == TensorRole::embedding && embedding_));
  }
  /// The dtype of a kept tensor. Of weights as loaders keep them in 16 bits; what no table knows may be kept wide for a reason.
  DType kept_dtype(const Checkpoint& model, const TensorInfo& info, WeightDType asked) const {
    if (info.dtype == DType::f8_e4m3 || info.dtype == DType::f8_e5m2) return DType::bf16;  // holds every fp8 value
    const TensorRole role = architecture_.role(info);
    const bool weight = role == TensorRole::linear || role == TensorRole::expert_linear || role == TensorRole::head ||
                        role == TensorRole::embedding || role == TensorRole::fused_experts;
    // Loaders of DeepSeek's layout compute in one type, and transformers leaves what is kept in its own: norms and biases, too.
    const bool vector = one_dtype_ && info.shape.size() == 1 && info.dtype == DType::f32 && role != TensorRole::router_bias &&
                        (role == TensorRole::norm || info.name.ends_with(".bias"));
    if (!vector && (!weight || info.shape.size() < 2)) return info.dtype;
    if (asked != WeightDType::automatic) return written_dtype(asked, model);
    return info.dtype == DType::f32 ? DType::bf16 : info.dtype;
  }
  /// Scales that another quantizer stored for rounding inputs do not apply to the new weights.
  bool is_stale(const TensorInfo& info) const { return architecture_.role(info) == TensorRole::quantization; }
  bool must_be_ignored(const TensorInfo& info) const {
    const TensorRole role = architecture_.role(info);
    const bool has_pattern = role == TensorRole::embedding || role == TensorRole::head ||
                             (role == TensorRole::router && module_of(info).ends_with(kGateModule));
    return is_matrix(info) && role != TensorRole::norm && !has_pattern;
  }

 private:
  Architecture architecture_;
  bool embedding_, one_dtype_, tied_;
};

bool is_included(const PlanOptions& options, std::string_view name) {
  return matches_any(name, options.include) && !matches_any(name, options.exclude);
}

/// Stacks of experts that loaders need in one piece, chosen by the same patterns as weights.
std::vector<std::string> choose_fused(const PlanOptions& options, const TensorSource& source, const Weights& weights) {
  std::vector<std::string> chosen;
  for (const TensorInfo& info : source.tensors())
    if (weights.architecture().role(info) == TensorRole::fused_experts && is_included(options, info.name))
      chosen.push_back(info.name);
  return chosen;
}

struct Override {
  std::string pattern;
  const Scheme* scheme = nullptr;  // null: the weight is kept
  bool used = false;
};

/// Adds the schemes of overrides to the plan.
std::vector<Override> find_overrides(const PlanOptions& options, Plan& plan) {
  std::vector<Override> overrides;
  std::map<std::string, const Scheme*, std::less<>> known = {{options.scheme, plan.schemes[0].get()}, {"none", nullptr}};
  for (const auto& [pattern, name] : options.overrides) {
    if (!known.contains(name)) {
      const Scheme* other = plan.schemes.emplace_back(find_scheme(name, options.scheme_options)).get();
      if (other->container() != Container::compressed_tensors || plan.schemes[0]->container() != Container::compressed_tensors)
        throw UsageError(fmt::format("overrides: schemes {} and {} cannot be in one checkpoint", options.scheme, name));
      known[name] = other;
    }
    overrides.push_back({pattern, known[name]});
  }
  return overrides;
}

/// The scheme that the options choose for each tensor, whether it can hold the weight or not; null: kept.
std::vector<const Scheme*> choose_schemes(const PlanOptions& options, std::vector<Override>& overrides, const Scheme* main,
                                          const TensorSource& source, const Weights& weights) {
  std::vector<const Scheme*> chosen;
  for (const TensorInfo& info : source.tensors()) {
    chosen.push_back(nullptr);
    if (!weights.may_quantize(info)) continue;
    const auto found = std::ranges::find_if(overrides, [&](const Override& o) { return matches_pattern(info.name, o.pattern); });
    if (found != overrides.end()) {
      found->used = true;
      chosen.back() = found->scheme;
    } else if (is_included(options, info.name)) {
      chosen.back() = main;
    }
  }
  for (const Override& o : overrides)
    if (!o.used)
      throw UsageError(
          fmt::format("overrides: pattern '{}' matches no Linear weight that no earlier pattern matches", o.pattern));
  return chosen;
}

/// A pattern that matches nothing is a mistake, which would quantize what was to be kept, or keep what was to be quantized.
void check_patterns(const PlanOptions& options, const TensorSource& source, const Weights& weights) {
  const auto matches_some = [&](const std::string& pattern, const auto& counts) {
    return std::ranges::any_of(source.tensors(), [&](const TensorInfo& t) { return counts(t) && matches_pattern(t.name, pattern); });
  };
  for (const std::string& pattern : options.include)
    if (!matches_some(pattern, [&](const TensorInfo& t) {
          return weights.may_quantize(t) || weights.architecture().role(t) == TensorRole::fused_experts;
        })) {
      const bool kept = matches_some(pattern, [](const TensorInfo&) { return true; });
      throw UsageError(fmt::format("include: pattern '{}' matches {}", pattern,
                                   kept ? fmt::format("only tensors that scheme {} never quantizes here: embeddings, routers, norms, "
                                                      "the head of a model whose embedding is tied",
                                                      options.scheme)
                                        : "no tensor of the model; 'overproof inspect' lists them"));
    }
  for (const std::string& pattern : options.exclude) {
    // A tied head has no tensor, and is kept: what the pattern asks for.
    const bool head = matches_pattern(std::string(kHeadModule) + std::string(kWeight), pattern);
    if (!head && !matches_some(pattern, [](const TensorInfo&) { return true; }))
      throw UsageError(fmt::format("exclude: pattern '{}' matches no tensor of the model; 'overproof inspect' lists them", pattern));
  }
}

/// What must have one scheme: in GGUF the experts of a layer only, because llama.cpp fuses no dense weights.
std::string unit_of(const TensorInfo& info, Container container) {
  if (container == Container::gguf && TensorName::parse(info.name).expert < 0) return info.name;
  return fused_unit(info.name);
}

/// Refuses options that split a unit. Where they are wrong, that is known before any byte is read; following one of the two parts
/// would quantize what was to be kept, or keep a whole layer for one pattern.
void check_units(const TensorSource& source, const std::vector<const Scheme*>& chosen, Container container) {
  std::map<std::string, size_t, std::less<>> first;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    if (!Weights::is_matrix(info)) continue;
    const std::string unit = unit_of(info, container);
    const size_t other = first.emplace(unit, i).first->second;
    if (chosen[other] == chosen[i]) continue;
    const auto name = [](const Scheme* s) { return s ? s->name() : "none"; };
    const bool experts = TensorName::parse(info.name).expert >= 0;
    throw UsageError(
        fmt::format("{} would get scheme {}, and {} scheme {}; runtimes load {} with one scheme only: use {}",
                    source.tensors()[other].name, name(chosen[other]), info.name, name(chosen[i]),
                    experts ? "all experts of a layer" : "weights that they multiply at once (q, k, v; gate, up)",
                    experts ? fmt::format("the pattern {}.*", unit) : "patterns that match all of them"));
  }
}

/// Gives each weight that its scheme cannot hold the scheme's fallback, or keeps it; the rest of its unit likewise.
void apply_fallbacks(const TensorSource& source, std::vector<const Scheme*>& chosen, Container container, Plan& plan) {
  std::map<const Scheme*, const Scheme*> fallbacks;
  const auto fallback_of = [&](const Scheme* scheme) -> const Scheme* {
    const auto [known, first] = fallbacks.emplace(scheme, nullptr);
    std::unique_ptr<Scheme> made = first ? scheme->fallback() : nullptr;
    if (made) known->second = plan.schemes.emplace_back(std::move(made)).get();
    return known->second;
  };
  std::set<std::string, std::less<>> units;
  for (size_t i = 0; i < chosen.size(); ++i)
    if (const TensorInfo& info = source.tensors()[i]; chosen[i] && !(chosen[i]->takes(info) && chosen[i]->is_loaded(info)))
      units.insert(unit_of(source.tensors()[i], container));
  for (size_t i = 0; i < chosen.size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    if (!chosen[i] || !units.contains(unit_of(info, container))) continue;
    chosen[i] = fallback_of(chosen[i]);
    (chosen[i] ? plan.fallen_back : plan.not_taken).push_back(info.name);
  }
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view(R"(\^$.|?*+()[]{})").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

/// Matches whatever a loader makes of a stack of experts that is kept: "re:.*mlp\.experts.*" for
/// "model.layers.3.mlp.experts.gate_up_proj". Loaders that split the stack look for the scheme of "mlp.experts.0.gate_proj".
std::string stack_pattern(std::string_view name) {
  std::string_view module = TensorName::parse(name).rest;
  if (module.ends_with(kWeight)) module.remove_suffix(kWeight.size());
  return fmt::format("re:.*{}.*", escaped(module.substr(0, module.rfind('.'))));
}

/// Patterns for kept modules outside of the tree that was quantized, as towers for images: checkpoints call them "vision_tower.*", and
/// transformers makes "model.vision_tower.*" of that, which the names in the checkpoint do not match.
std::set<std::string> outer_patterns(const Plan& plan) {
  const auto root_of = [](std::string_view name) { return std::string(name.substr(0, name.find('.'))); };
  std::set<std::string> quantized = {"model", "mtp"}, patterns;
  for (const PlanItem& item : plan.items)
    if (item.scheme) quantized.insert(root_of(item.source.name));
  for (const std::string& module : plan.ignored)
    if (const std::string root = root_of(module); root != module && !quantized.contains(root))
      patterns.insert(fmt::format(R"(re:^(model\.)?{}\..*)", escaped(root)));
  return patterns;
}

bool is_number(std::string_view part) { return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos; }

/// The name as a pattern in which numbers are wildcards: all of them, or only the last, which is the expert's if there are two.
std::string with_wildcards(std::string_view name, bool all) {
  std::vector<std::string> parts;
  size_t last = std::string::npos;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (is_number(part)) last = parts.size();
    parts.push_back(all && is_number(part) ? R"(\d+)" : escaped(part));
    begin = end + 1;
  }
  if (last != std::string::npos) parts[last] = R"(\d+)";
  return fmt::format("re:^{}$", fmt::join(parts, R"(\.)"));
}

}  // namespace

std::string fused_unit(std::string_view weight) {
  using Part = TensorName::Part;
  const TensorName name = TensorName::parse(weight);
  if (name.expert >= 0) {
    const std::string_view expert = name.expert_prefix.substr(0, name.expert_prefix.size() - 1);
    return std::string(expert.substr(0, expert.rfind('.')));
  }
  const std::string unit(name.unit);
  const auto module = [&](std::string_view wanted) { return weight == unit + "." + std::string(wanted) + ".weight"; };
  if (!name.bias && (name.part == Part::q || name.part == Part::k || name.part == Part::v)) return unit + ".qkv";
  if (!name.bias && (name.part == Part::gate || name.part == Part::up)) return unit + ".gate_up";
  if (module("q_a_proj") || module("kv_a_proj_with_mqa")) return unit + ".qkv_a";
  return std::string(weight);
}

bool matches_pattern(std::string_view text, std::string_view pattern) {
  // Greedy; backtracks to the last '*' only, so the time is at most the product of both lengths.
  size_t t = 0, p = 0;
  std::optional<size_t> star;
  size_t resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star) {
      p = *star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

StringList default_include(const Scheme& scheme) {
  StringList patterns = {"model.layers.*"};
  if (!scheme.input_rounding()) patterns.emplace_back("lm_head.weight");
  if (scheme.container() == Container::gguf) patterns.emplace_back("model.embed_tokens.weight");
  return patterns;
}

Plan make_plan(const PlanOptions& asked, const Checkpoint& model) {
  const TensorSource& source = *model.tensors;
  Plan plan;
  plan.schemes.push_back(find_scheme(asked.scheme, asked.scheme_options));
  PlanOptions options = asked;
  const bool defaults = options.include.empty();
  if (defaults) options.include = default_include(*plan.schemes[0]);
  const Container container = plan.schemes[0]->container();
  const Weights weights(model, container);
  plan.assumption = weights.architecture().assumption();
  if (weights.architecture().stores_columns())
    throw UsageError(fmt::format("the layers of model type '{}' are Conv1D, whose matrices are [in, out]: no loader of 8-bit formats takes "
                                 "them for Linear weights",
                                 weights.architecture().model_type()));
  std::vector<Override> overrides = find_overrides(options, plan);
  if (!defaults) check_patterns(options, source, weights);
  else check_patterns({.scheme = options.scheme, .exclude = options.exclude}, source, weights);
  std::vector<const Scheme*> chosen = choose_schemes(options, overrides, plan.schemes[0].get(), source, weights);
  check_units(source, chosen, container);
  apply_fallbacks(source, chosen, container, plan);
  plan.fused = choose_fused(options, source, weights);
  // transformers makes separate Linear layers of them in an 8-bit checkpoint, which it then finds no weights for.
  if (!plan.fused.empty() && container != Container::gguf && weights.architecture().model_type().starts_with("llama4"))
    throw UsageError(fmt::format("the experts of model type '{}' are stacked ({}), and loaders read neither these stacks next to 8-bit weights "
                                 "nor 8-bit weights cut from them; keep this model in 16 bits",
                                 weights.architecture().model_type(), plan.fused[0]));

  bool head_kept = true;
  for (size_t i = 0; i < chosen.size(); ++i) {
    PlanItem item{source.tensors()[i], chosen[i]};
    if (weights.is_stale(item.source)) continue;
    plan.bytes_in += item.source.bytes();
    if (item.scheme) {
      ++plan.quantized;
      if (module_of(item.source) == kHeadModule) head_kept = false;
      item.outputs = item.scheme->outputs(item.source);
    } else {
      item.kept_as = weights.kept_dtype(model, item.source, options.kept_dtype);
      item.must_be_finite = true;
      item.outputs = {item.source};
      item.outputs[0].dtype = item.kept_as;
      if (weights.must_be_ignored(item.source)) plan.ignored.push_back(module_of(item.source));
    }
    plan.outputs.insert(plan.outputs.end(), item.outputs.begin(), item.outputs.end());
    plan.items.push_back(std::move(item));
  }
  std::set<std::string_view> names;
  for (const TensorInfo& out : plan.outputs)
    if (!names.insert(out.name).second)
      throw FormatError(model.path, -1, fmt::format("two tensors of the output would have the name '{}'", out.name));
  std::set<std::string> stacks;
  for (const std::string& name : plan.fused) stacks.insert(stack_pattern(name));
  const std::set<std::string> outer = outer_patterns(plan);
  plan.ignored.insert(plan.ignored.end(), outer.begin(), outer.end());
  plan.ignored.insert(plan.ignored.end(), stacks.begin(), stacks.end());
  // Listed even when the checkpoint has no lm_head tensor: with tied embeddings the module exists all the same.
  if (head_kept) plan.ignored.insert(plan.ignored.begin(), std::string(kHeadModule));
  plan.ignored.push_back(kEmbeddingPattern);
  plan.ignored.push_back(kGatePattern);
  if (plan.quantized == 0 && (plan.fused.empty() || plan.schemes[0]->container() != Container::gguf)) {
    if (!plan.not_taken.empty())
      throw UsageError(fmt::format("scheme {} cannot hold any of the chosen weights, for example {}{}; choose another scheme",
                                   options.scheme, plan.not_taken[0], plan.schemes[0]->needs_shape()));
    const auto matrix = std::ranges::find_if(source.tensors(), [](const TensorInfo& t) {
      return Weights::is_matrix(t) && TensorName::parse(t.name).layer >= 0;
    });
    throw UsageError(fmt::format(
        "no Linear weight matches include '{}' and not exclude '{}'{}", fmt::join(options.include, ","),
        fmt::join(options.exclude, ","),
        matrix == source.tensors().end()
            ? ""
            : fmt::format("; the model has for example {}: choose by --include '{}.*'", matrix->name, TensorName::parse(matrix->name).list)));
  }
  return plan;
}

std::vector<std::string> module_patterns(const std::vector<std::string>& modules, const std::vector<std::string>& others) {
  std::set<std::string> taken[2], patterns;
  for (const std::string& other : others)
    for (const bool all : {false, true}) taken[all].insert(with_wildcards(other, all));
  for (const std::string& module : modules) {
    const std::string wide = with_wildcards(module, true), narrow = with_wildcards(module, false);
    patterns.insert(!taken[1].contains(wide) ? wide : !taken[0].contains(narrow) ? narrow : module);
  }
  return {patterns.begin(), patterns.end()};
}

Json quantization_config(const Plan& plan) {
  std::vector<const Scheme*> used;
  for (const auto& scheme : plan.schemes)
    if (std::ranges::any_of(plan.items, [&](const PlanItem& item) { return item.scheme == scheme.get(); }))
      used.push_back(scheme.get());
  // transformers uses the first group with a pattern for experts for all routed experts, so theirs comes before that of shared ones.
  std::stable_partition(used.begin(), used.end(), [&](const Scheme* scheme) {
    return std::ranges::any_of(
        plan.items, [&](const PlanItem& i) { return i.scheme == scheme && TensorName::parse(i.source.name).expert >= 0; });
  });
  if (used.size() == 1) {
    Json config = used[0]->quantization_config(plan.ignored);
    // vLLM (since #37291) and SGLang (since #35228) do not take the head for a Linear: it has to be named. Before "Linear", because
    // compressed-tensors stops at the first target that matches and warns of those that match nothing.
    const bool head = std::ranges::any_of(plan.items, [](const PlanItem& i) {
      return i.scheme && Weights::is_matrix(i.source) && module_of(i.source) == kHeadModule;
    });
    if (head && config.is_object() && config.contains("config_groups")) {
      Json& targets = config["config_groups"]["group_0"]["targets"];
      targets.insert(targets.begin(), kHeadTarget);
    }
    return config;
  }
  Json groups = Json::object();
  bool one_format = true;
  for (size_t g = 0; g < used.size(); ++g) {
    Json group = used[g]->config_group();
    one_format &= used[g]->format() == used[0]->format();
    std::vector<std::string> modules, others;
    for (const PlanItem& item : plan.items)
      if (Weights::is_matrix(item.source)) (item.scheme == used[g] ? modules : others).push_back(module_of(item.source));
    group["targets"] = module_patterns(modules, others);
    groups[fmt::format("group_{}", g)] = std::move(group);
  }
  Json config = used[0]->quantization_config(plan.ignored);
  config["format"] = one_format ? std::string(used[0]->format()) : "mixed-precision";
  config["config_groups"] = groups;
  return config;
}

}  // namespace overproof
