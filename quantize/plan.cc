#include "quantize/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/config.h"
#include "formats/architecture.h"
#include "quantize/quantize_stage.h"

namespace overproof {
namespace {

constexpr std::string_view kWeight = ".weight";

bool matches_any(std::string_view text, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& p) { return matches_pattern(text, p); });
}

/// Who may be quantised: by role, and only a matrix. Routers, embeddings and norms are something else.
class Weights {
 public:
  explicit Weights(const Checkpoint& model) : architecture_(*model.config) {}
  const Architecture& architecture() const { return architecture_; }
  /// A matrix that loaders might take for a Linear weight's, so that it must be listed when it is left alone.
  static bool is_matrix(const TensorInfo& info) {
    return info.shape.size() == 2 && info.shape[0] > 0 && info.shape[1] > 0 && info.name.ends_with(kWeight);
  }
  bool may_quantise(const TensorInfo& info) const {
    const TensorRole role = architecture_.role(info);
    // `other` is what no table knows: a matrix that the user's own pattern names.
    return is_matrix(info) && (role == TensorRole::linear || role == TensorRole::expert_linear || role == TensorRole::head ||
                               role == TensorRole::other);
  }
  /// What another quantiser left for its own inputs' rounding says nothing about the weights that this one makes.
  bool is_stale(const TensorInfo& info) const { return architecture_.role(info) == TensorRole::quantization; }
  bool must_be_ignored(const TensorInfo& info) const {
    const TensorRole role = architecture_.role(info);
    const bool named_below = role == TensorRole::embedding || role == TensorRole::head ||
                             (role == TensorRole::router && info.name.ends_with("mlp.gate.weight"));
    return is_matrix(info) && role != TensorRole::norm && !named_below;
  }

 private:
  Architecture architecture_;
};

/// Stacks of experts that no loader takes apart, by the same patterns as weights.
std::vector<std::string> choose_fused(const QuantizeConfig& config, const TensorSource& source, const Weights& weights) {
  const std::vector<std::string> include = split_list(config.include), exclude = split_list(config.exclude);
  std::vector<std::string> chosen;
  for (const TensorInfo& info : source.tensors())
    if (weights.architecture().role(info) == TensorRole::fused_experts && matches_any(info.name, include) &&
        !matches_any(info.name, exclude))
      chosen.push_back(info.name);
  return chosen;
}

std::string module_of(const TensorInfo& weight) { return weight.name.substr(0, weight.name.size() - kWeight.size()); }

/// "model.layers.0.mlp.experts.3." of one of that expert's weights; "" for others.
std::string_view expert_of(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  if (at == std::string_view::npos) return {};
  const size_t number = at + kExperts.size(), dot = name.find('.', number);
  if (dot == std::string_view::npos || name.find_first_not_of("0123456789", number) != dot) return {};
  return name.substr(0, dot + 1);
}

/// The dtype in which a tensor that is left alone is written: its own, but for fp8, which would need its scales beside it.
DType kept_dtype(const TensorInfo& info) {
  return info.dtype == DType::f8_e4m3 || info.dtype == DType::f8_e5m2 ? DType::bf16 : info.dtype;  // bf16 holds every fp8 value
}

struct Override {
  std::string pattern;
  const Scheme* scheme = nullptr;  // null: the weight is kept
  bool used = false;
};

std::vector<Override> read_overrides(const QuantizeConfig& config, const SchemeOptions& options, Plan& plan) {
  std::vector<Override> overrides;
  std::map<std::string, const Scheme*, std::less<>> known = {{config.scheme, plan.schemes[0].get()}, {"none", nullptr}};
  for (const std::string& part : split_list(config.overrides)) {
    const size_t equals = part.rfind('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == part.size())
      throw UsageError(fmt::format("overrides: '{}' is not PATTERN=SCHEME", part));
    const std::string name = part.substr(equals + 1);
    if (!known.contains(name)) {
      const Scheme* other = plan.schemes.emplace_back(find_scheme(name, options)).get();
      // One quantization_config speaks of one family of formats: compressed-tensors' groups can stand side by side, others
      // cannot.
      if (other->config_group().is_null() || plan.schemes[0]->config_group().is_null())
        throw UsageError(fmt::format("overrides: no loader takes {} beside {} in one checkpoint", name, config.scheme));
      known[name] = other;
    }
    overrides.push_back({part.substr(0, equals), known[name]});
  }
  return overrides;
}

/// What each weight shall become, before asking whether it can.
std::vector<const Scheme*> choose_schemes(const QuantizeConfig& config, std::vector<Override>& overrides, const Scheme* main,
                                          const TensorSource& source, const Weights& weights) {
  const std::vector<std::string> include = split_list(config.include), exclude = split_list(config.exclude);
  std::vector<const Scheme*> chosen;
  for (const TensorInfo& info : source.tensors()) {
    chosen.push_back(nullptr);
    if (!weights.may_quantise(info)) continue;
    const auto found = std::ranges::find_if(overrides, [&](const Override& o) { return matches_pattern(info.name, o.pattern); });
    if (found != overrides.end()) {
      found->used = true;
      chosen.back() = found->scheme;
    } else if (matches_any(info.name, include) && !matches_any(info.name, exclude)) {
      chosen.back() = main;
    }
  }
  for (const Override& o : overrides)
    if (!o.used)
      throw UsageError(
          fmt::format("overrides: '{}' decides about no Linear weight (earlier patterns do, or none matches)", o.pattern));
  return chosen;
}

/// Runtimes run the projections of an expert, and all experts of a layer, through one kernel.
void check_experts(const TensorSource& source, const std::vector<const Scheme*>& chosen) {
  std::map<std::string_view, size_t> first;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    const std::string_view expert = expert_of(info.name);
    if (expert.empty() || !Weights::is_matrix(info)) continue;
    const size_t other = first.emplace(expert, i).first->second;
    if (chosen[other] == chosen[i]) continue;
    const auto name = [](const Scheme* s) { return s ? s->name() : "none"; };
    throw UsageError(fmt::format(
        "{} would be {} and {} {}: runtimes need one scheme for all projections of an expert; widen the pattern to {}*",
        source.tensors()[other].name, name(chosen[other]), info.name, name(chosen[i]), expert));
  }
}

/// A weight that its scheme cannot hold gets the scheme's fallback, or keeps its precision, and with it the expert that it
/// belongs to.
void replace_what_is_not_taken(const TensorSource& source, std::vector<const Scheme*>& chosen, Plan& plan) {
  std::map<const Scheme*, const Scheme*> fallbacks;
  const auto fallback_of = [&](const Scheme* scheme) -> const Scheme* {
    const auto [known, first] = fallbacks.emplace(scheme, nullptr);
    std::unique_ptr<Scheme> made = first ? scheme->fallback() : nullptr;
    if (made) known->second = plan.schemes.emplace_back(std::move(made)).get();
    return known->second;
  };
  std::set<std::string_view> experts;
  for (size_t i = 0; i < chosen.size(); ++i)
    if (chosen[i] && !chosen[i]->takes(source.tensors()[i])) experts.insert(expert_of(source.tensors()[i].name));
  for (size_t i = 0; i < chosen.size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    const std::string_view expert = expert_of(info.name);
    if (!chosen[i] || (chosen[i]->takes(info) && (expert.empty() || !experts.contains(expert)))) continue;
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

bool is_number(std::string_view part) { return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos; }

/// The name as a pattern with its numbers left open, all of them or only the last: an expert's, where there are two.
std::string opened(std::string_view name, bool all) {
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

bool matches_pattern(std::string_view text, std::string_view pattern) {
  // Greedy with one point of return, the last '*': linear in practice, never exponential.
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

Plan make_plan(const QuantizeConfig& config, const Checkpoint& model) {
  const TensorSource& source = *model.tensors;
  const Weights weights(model);
  const SchemeOptions options{config.clipping == "mse" ? Clipping::mse : Clipping::absmax, config.per_tensor, config.asymmetric};
  Plan plan;
  plan.assumption = weights.architecture().assumption();
  plan.schemes.push_back(find_scheme(config.scheme, options));
  std::vector<Override> overrides = read_overrides(config, options, plan);
  std::vector<const Scheme*> chosen = choose_schemes(config, overrides, plan.schemes[0].get(), source, weights);
  check_experts(source, chosen);
  replace_what_is_not_taken(source, chosen, plan);
  plan.fused = choose_fused(config, source, weights);

  bool head_kept = true;
  for (size_t i = 0; i < chosen.size(); ++i) {
    PlanItem item{source.tensors()[i], chosen[i]};
    if (weights.is_stale(item.source)) continue;
    plan.bytes_in += item.source.bytes();
    if (item.scheme) {
      ++plan.quantised;
      if (item.source.name == "lm_head.weight") head_kept = false;
      item.outputs = item.scheme->outputs(item.source);
    } else {
      item.kept_as = kept_dtype(item.source);
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
      throw FormatError(model.path, -1, fmt::format("two tensors of the output would be called '{}'", out.name));
  // Also named when the checkpoint has no lm_head of its own: with tied embeddings the module exists all the same.
  if (head_kept) plan.ignored.insert(plan.ignored.begin(), "lm_head");
  plan.ignored.push_back("re:.*embed_tokens.*");
  plan.ignored.push_back("re:.*mlp.gate$");
  if (plan.quantised == 0 && (plan.fused.empty() || plan.schemes[0]->format() != "gguf")) {
    if (!plan.not_taken.empty())
      throw UsageError(
          fmt::format("{} cannot hold any of the weights, {} for one; choose another scheme", config.scheme, plan.not_taken[0]));
    throw UsageError(fmt::format("no Linear weight matches include '{}' without exclude '{}'", config.include, config.exclude));
  }
  return plan;
}

std::vector<std::string> module_patterns(const std::vector<std::string>& modules, const std::vector<std::string>& others) {
  std::set<std::string> taken[2], patterns;
  for (const std::string& other : others)
    for (const bool all : {false, true}) taken[all].insert(opened(other, all));
  for (const std::string& module : modules) {
    const std::string wide = opened(module, true), narrow = opened(module, false);
    patterns.insert(!taken[1].contains(wide) ? wide : !taken[0].contains(narrow) ? narrow : module);
  }
  return {patterns.begin(), patterns.end()};
}

Json quantization_config(const Plan& plan) {
  std::vector<const Scheme*> used;
  for (const auto& scheme : plan.schemes)
    if (std::ranges::any_of(plan.items, [&](const PlanItem& item) { return item.scheme == scheme.get(); }))
      used.push_back(scheme.get());
  // transformers takes the first group whose patterns speak of experts for that of all routed ones; shared ones may be another's.
  std::stable_partition(used.begin(), used.end(), [&](const Scheme* scheme) {
    return std::ranges::any_of(plan.items,
                               [&](const PlanItem& i) { return i.scheme == scheme && !expert_of(i.source.name).empty(); });
  });
  if (used.size() == 1) return used[0]->quantization_config(plan.ignored);
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
