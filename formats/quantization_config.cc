#include "formats/quantization_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/regex.h"

namespace overproof {
namespace {

constexpr std::string_view kRegexMark = "re:";
constexpr int64_t kMatchWork = 100'000;  // of one pattern on one module name; names are short, so only hostile patterns need more
constexpr size_t kMaxRegexes = 1'000;    // each is tried on each module
constexpr int64_t kMaxSize = int64_t{1} << 31;

struct Names {
  std::string_view name;
  QuantStrategy value;
};
constexpr Names kStrategies[] = {{"tensor", QuantStrategy::tensor},      {"channel", QuantStrategy::channel},
                                 {"group", QuantStrategy::group},        {"block", QuantStrategy::block},
                                 {"token", QuantStrategy::token},        {"tensor_group", QuantStrategy::tensor_group},
                                 {"attn_head", QuantStrategy::attn_head}};

/// The value at `key`, or null when it is missing, so that a config that leaves a default out reads like one that writes null.
const Json& at_or_null(const Json& object, const char* key) {
  static const Json null;
  return object.is_object() && object.contains(key) ? object[key] : null;
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return text;
}

struct Refuse {
  const std::filesystem::path& file;
  [[noreturn]] void operator()(const std::string& cause) const {
    throw FormatError(file, -1, fmt::format("quantization_config: {}", cause));
  }
};

bool is_regex(std::string_view text) { return text.starts_with(kRegexMark); }

std::vector<std::string> text_list(const Json& list, const char* what, const Refuse& refuse) {
  if (list.is_null()) return {};
  if (!list.is_array()) refuse(fmt::format("{} is not a list", what));
  std::vector<std::string> texts;
  for (const Json& text : list) {
    if (!text.is_string()) refuse(fmt::format("{} holds something else than text", what));
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

int64_t positive(const Json& value, const std::string& what, const Refuse& refuse) {
  if (!value.is_number_integer() || value < 1 || value > kMaxSize) refuse(fmt::format("{} is not a positive whole number", what));
  return value.get<int64_t>();
}

std::array<int64_t, 2> block_of(const Json& block, const std::string& what, const Refuse& refuse) {
  if (!block.is_array() || block.size() != 2) refuse(fmt::format("{} is not a pair [rows, columns]", what));
  return {positive(block[0], what, refuse), positive(block[1], what, refuse)};
}

bool flag(const Json& value, bool fallback, const std::string& what, const Refuse& refuse) {
  if (value.is_null()) return fallback;
  if (value == "local") return true;  // the groups' scales are made on the fly, the tensor's is static
  if (!value.is_boolean()) refuse(fmt::format("{} is neither true nor false", what));
  return value.get<bool>();
}

std::optional<QuantArgs> parse_args(const Json& args, const std::string& what, const Refuse& refuse) {
  if (args.is_null()) return std::nullopt;
  if (!args.is_object()) refuse(fmt::format("{} is not an object", what));
  const auto at = [&](const char* key) { return fmt::format("{}.{}", what, key); };
  QuantArgs out;
  if (const Json& bits = at_or_null(args, "num_bits"); !bits.is_null()) {
    out.bits = int(positive(bits, at("num_bits"), refuse));
    if (out.bits > 32) refuse(fmt::format("{} is {}", at("num_bits"), out.bits));
  }
  if (const Json& type = at_or_null(args, "type"); !type.is_null()) {
    const std::string name = type.is_string() ? lower(type.get<std::string>()) : "";
    if (name != "int" && name != "float") refuse(fmt::format("{} is {}; int and float are known", at("type"), type.dump()));
    out.type = name == "int" ? QuantType::integer : QuantType::floating;
  }
  out.symmetric = flag(at_or_null(args, "symmetric"), true, at("symmetric"), refuse);
  out.dynamic = flag(at_or_null(args, "dynamic"), false, at("dynamic"), refuse);

  const Json& group = at_or_null(args, "group_size");
  const bool whole_rows = group == -1;
  if (!group.is_null() && !whole_rows && group != 0) out.group_size = positive(group, at("group_size"), refuse);
  const Json& strategy = at_or_null(args, "strategy");
  if (strategy.is_null()) {
    out.strategy = out.group_size ? QuantStrategy::group : whole_rows ? QuantStrategy::channel : QuantStrategy::tensor;
  } else {
    const std::string name = strategy.is_string() ? lower(strategy.get<std::string>()) : "";
    const auto known = std::ranges::find(kStrategies, name, &Names::name);
    if (known == std::end(kStrategies)) refuse(fmt::format("{} is {}, which is not known", at("strategy"), strategy.dump()));
    out.strategy = known->value;
  }
  const bool grouped = out.strategy == QuantStrategy::group || out.strategy == QuantStrategy::tensor_group;
  if (grouped && out.group_size == 0) refuse(fmt::format("{} is missing", at("group_size")));
  if (!grouped) out.group_size = 0;
  if (out.strategy == QuantStrategy::block)
    out.block = block_of(at_or_null(args, "block_structure"), at("block_structure"), refuse);
  const Json& scale = at_or_null(args, "scale_dtype");
  out.power_of_two_scale = scale == "torch.uint8" || scale == "uint8" || scale == "torch.float8_e8m0fnu";
  return out;
}

QuantGroup parse_group(const std::string& name, const Json& group, const Refuse& refuse) {
  if (!group.is_object()) refuse(fmt::format("config_groups.{} is not an object", name));
  QuantGroup out;
  out.name = name;
  if (const Json& format = at_or_null(group, "format"); format.is_string()) out.format = format.get<std::string>();
  out.targets = text_list(at_or_null(group, "targets"), "targets", refuse);
  out.weights = parse_args(at_or_null(group, "weights"), name + ".weights", refuse);
  out.input_activations = parse_args(at_or_null(group, "input_activations"), name + ".input_activations", refuse);
  out.output_activations = parse_args(at_or_null(group, "output_activations"), name + ".output_activations", refuse);
  return out;
}

std::vector<QuantGroup> parse_compressed_tensors(const Json& q, const Refuse& refuse) {
  const Json& format = at_or_null(q, "format");
  const std::string overall = format.is_string() && format != "mixed-precision" ? format.get<std::string>() : "";
  for (const char* key : {"transform_config", "sparsity_config"}) {
    const Json& extra = at_or_null(q, key);
    if (extra.is_object() && !extra.empty() && at_or_null(extra, "format") != "dense") {
      refuse(fmt::format("has a {}: rotated or sparse weights cannot be read", key));
    }
  }
  const Json& groups = at_or_null(q, "config_groups");
  if (!groups.is_object() || groups.empty()) refuse("config_groups is missing");
  std::vector<QuantGroup> out;
  for (const auto& [name, group] : groups.items()) {
    out.push_back(parse_group(name, group, refuse));
    if (out.back().format.empty()) out.back().format = overall;
  }
  return out;
}

std::vector<QuantGroup> parse_fp8(const Json& q, const Refuse& refuse) {
  if (const Json& fmt_name = at_or_null(q, "fmt"); !fmt_name.is_null() && fmt_name != "e4m3") {
    refuse(fmt::format("fmt is {}; only e4m3 can be read", fmt_name.dump()));
  }
  if (const Json& experts = at_or_null(q, "expert_dtype"); !experts.is_null() && experts != "fp8") {
    refuse(fmt::format("expert_dtype is {}; only fp8 can be read", experts.dump()));
  }
  QuantGroup group{"fp8", "", {"Linear"}, QuantArgs{}, QuantArgs{}, std::nullopt};
  QuantArgs &weights = *group.weights, &inputs = *group.input_activations;
  weights.type = inputs.type = QuantType::floating;
  weights.power_of_two_scale = at_or_null(q, "scale_fmt") == "ue8m0";
  if (const Json& block = at_or_null(q, "weight_block_size"); !block.is_null()) {
    weights.strategy = QuantStrategy::block;
    weights.block = block_of(block, "weight_block_size", refuse);
  }
  const Json& activations = at_or_null(q, "activation_scheme");
  const std::string scheme = activations.is_null()     ? "dynamic"
                             : activations.is_string() ? lower(activations.get<std::string>())
                                                       : "";
  if (scheme != "dynamic" && scheme != "static")
    refuse(fmt::format("activation_scheme is {}; dynamic and static are known", activations.dump()));
  inputs.dynamic = scheme == "dynamic";
  if (inputs.dynamic && weights.strategy == QuantStrategy::block) {
    inputs.strategy = QuantStrategy::group;  // a scale for each token and as many columns as a block is wide
    inputs.group_size = weights.block[1];
  } else if (inputs.dynamic) {
    inputs.strategy = QuantStrategy::token;
  }
  return {std::move(group)};
}

}  // namespace

struct QuantizationConfig::Impl {
  QuantDialect dialect = QuantDialect::compressed_tensors;
  std::vector<QuantGroup> groups;
  std::map<std::string, size_t, std::less<>> exact_targets;  // a module's name or class -> its place in groups
  std::map<std::string, std::pair<Regex, size_t>> regex_targets;
  std::vector<std::string> ignored,
      ignored_ends;  // ends: dialect fp8 ignores every module whose name ends so, or begins with its parts
  std::set<std::string, std::less<>> ignored_names, plain;
  std::vector<Regex> ignored_regexes;
  size_t regexes = 0;

  Regex regex(const std::string& pattern, const Refuse& refuse) {
    if (++regexes > kMaxRegexes) refuse(fmt::format("has more than {} regular expressions", kMaxRegexes));
    return Regex(pattern, Regex::Text::bytes, refuse.file);
  }
};

QuantizationConfig::QuantizationConfig(const std::filesystem::path& file, const Json& q) : impl_(std::make_unique<Impl>()) {
  const Refuse refuse{file};
  Impl& out = *impl_;
  const Json& method = at_or_null(q, "quant_method");
  if (method == "compressed-tensors") {
    out.groups = parse_compressed_tensors(q, refuse);
    out.ignored = text_list(at_or_null(q, "ignore"), "ignore", refuse);
    for (const std::string& name : out.ignored) {
      if (is_regex(name)) out.ignored_regexes.push_back(out.regex(name.substr(kRegexMark.size()), refuse));
      else out.ignored_names.insert(name);
    }
  } else if (method == "fp8") {
    out.dialect = QuantDialect::fp8;
    out.groups = parse_fp8(q, refuse);
    const Json& names = at_or_null(q, "modules_to_not_convert");
    out.ignored = text_list(names.is_null() ? at_or_null(q, "ignored_layers") : names, "modules_to_not_convert", refuse);
    for (const std::string& name : out.ignored) {
      out.ignored_ends.push_back(name);
      // A plain name needs no matcher, and a model may list thousands.
      if (name.find_first_of("\\^$*+?()[]{}|") != std::string::npos) {
        out.ignored_regexes.push_back(out.regex(fmt::format("(?:{})(?:(?<=\\.)|(?=\\.|$))", name), refuse));
      }
    }
  } else {
    refuse(fmt::format("quant_method is {}; compressed-tensors and fp8 can be read", method.dump()));
  }
  for (size_t i = 0; i < out.groups.size(); ++i) {
    for (const std::string& target : out.groups[i].targets) {
      if (!is_regex(target)) out.exact_targets[target] = i;
      else out.regex_targets.insert_or_assign(target, std::pair(out.regex(target.substr(kRegexMark.size()), refuse), i));
    }
  }
}

QuantizationConfig::~QuantizationConfig() = default;
QuantizationConfig::QuantizationConfig(QuantizationConfig&&) noexcept = default;
QuantDialect QuantizationConfig::dialect() const { return impl_->dialect; }
const std::vector<QuantGroup>& QuantizationConfig::groups() const { return impl_->groups; }
const std::vector<std::string>& QuantizationConfig::ignored() const { return impl_->ignored; }
void QuantizationConfig::add_plain(std::string_view module) { impl_->plain.emplace(module); }

namespace {

/// The class that the module has in transformers, as far as a name shows it.
std::string_view class_of(std::string_view module) { return module.ends_with("embed_tokens") ? "Embedding" : "Linear"; }

}  // namespace

bool QuantizationConfig::is_ignored(std::string_view module) const {
  if (impl_->plain.contains(module) || impl_->ignored_names.contains(module)) return true;
  if (impl_->dialect == QuantDialect::compressed_tensors && impl_->ignored_names.contains(class_of(module))) return true;
  // transformers, quantizers_utils.should_convert_module: an end, or a beginning up to a dot.
  const auto covers = [&](const std::string& part) {
    if (module.ends_with(part)) return true;
    return module.starts_with(part) && (part.ends_with('.') || module.substr(part.size()).starts_with('.'));
  };
  return std::ranges::any_of(impl_->ignored_ends, covers) ||
         std::ranges::any_of(impl_->ignored_regexes, [&](const Regex& regex) { return regex.matches_start(module, kMatchWork); });
}

const QuantGroup* QuantizationConfig::group_for(std::string_view module) const {
  if (is_ignored(module)) return nullptr;
  if (const auto exact = impl_->exact_targets.find(module); exact != impl_->exact_targets.end())
    return &impl_->groups[exact->second];
  // In the order of their texts, as compressed-tensors' match_targets.
  for (const auto& [text, target] : impl_->regex_targets)
    if (target.first.matches_start(module, kMatchWork)) return &impl_->groups[target.second];
  const auto by_class = impl_->exact_targets.find(class_of(module));
  return by_class == impl_->exact_targets.end() ? nullptr : &impl_->groups[by_class->second];
}

std::string_view quant_strategy_name(QuantStrategy strategy) {
  return std::ranges::find(kStrategies, strategy, &Names::value)->name;
}

bool has_quantization_config(const Json& config) { return !at_or_null(config, "quantization_config").is_null(); }

bool is_activation_parameter(std::string_view tensor) {
  constexpr std::string_view kOthers[] = {
      kInputZeroPointSuffix, ".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale",
      ".k_zero_point",       ".v_zero_point"};
  const auto ends = [&](std::string_view suffix) { return tensor.ends_with(suffix); };
  return std::ranges::any_of(kInputScaleSuffixes, ends) || std::ranges::any_of(kOthers, ends);
}

}  // namespace overproof
