#include "formats/quantization_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/json_object.h"
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

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return text;
}

bool is_regex(std::string_view text) { return text.starts_with(kRegexMark); }

std::vector<std::string> texts_or_none(const JsonObject& o, const char* name) {
  return o.has(name) ? o.texts(name) : std::vector<std::string>();
}

std::array<int64_t, 2> block_of(const JsonObject& o, const char* name) {
  const Json& block = o.list(name);
  if (block.size() != 2) o.fail(name, "is not a pair [rows, columns]");
  for (const Json& size : block)
    if (!size.is_number_integer() || size < 1 || size > kMaxSize) o.fail(name, "holds something else than positive whole numbers");
  return {block[0].get<int64_t>(), block[1].get<int64_t>()};
}

std::optional<QuantArgs> parse_args(const JsonObject& group, const char* name) {
  const std::optional<JsonObject> args = group.find_object(name);
  if (!args) return std::nullopt;
  QuantArgs out;
  out.bits = int(args->integer("num_bits", 1, 32, out.bits));
  const std::string type = lower(args->text("type", "int"));
  if (type != "int" && type != "float") args->fail("type", fmt::format("is '{}'; int and float are known", type));
  out.type = type == "int" ? QuantType::integer : QuantType::floating;
  out.symmetric = args->flag("symmetric", true);
  const Json* dynamic = args->find("dynamic");
  // local: the groups' scales are made on the fly, the tensor's is static
  out.dynamic = (dynamic && *dynamic == "local") || args->flag("dynamic", false);

  const int64_t group_size = args->integer("group_size", -1, kMaxSize, 0);  // -1: whole rows
  out.group_size = std::max<int64_t>(group_size, 0);
  if (!args->has("strategy")) {
    out.strategy = out.group_size  ? QuantStrategy::group
                   : group_size < 0 ? QuantStrategy::channel
                                    : QuantStrategy::tensor;
  } else {
    const std::string strategy = lower(args->text("strategy"));
    const auto known = std::ranges::find(kStrategies, strategy, &Names::name);
    if (known == std::end(kStrategies)) args->fail("strategy", fmt::format("is '{}', which is not known", strategy));
    out.strategy = known->value;
  }
  const bool grouped = out.strategy == QuantStrategy::group || out.strategy == QuantStrategy::tensor_group;
  if (grouped && out.group_size == 0) args->fail("group_size", "is missing");
  if (!grouped) out.group_size = 0;
  if (out.strategy == QuantStrategy::block) out.block = block_of(*args, "block_structure");
  const std::string scale = args->text("scale_dtype", "");
  out.power_of_two_scale = scale == "torch.uint8" || scale == "uint8" || scale == "torch.float8_e8m0fnu";
  return out;
}

std::vector<QuantGroup> parse_compressed_tensors(const JsonObject& q) {
  const std::string format = q.text("format", ""), overall = format == "mixed-precision" ? "" : format;
  for (const char* name : {"transform_config", "sparsity_config"})
    if (const auto extra = q.find_object(name); extra && !extra->json().empty() && extra->text("format", "") != "dense")
      q.fail(name, "is there: rotated or sparse weights cannot be read");
  const JsonObject groups = q.object("config_groups");
  if (groups.json().empty()) q.fail("config_groups", "is empty");
  std::vector<QuantGroup> out;
  for (const auto& [name, value] : groups.json().items()) {
    const JsonObject group = groups.object(name);
    out.push_back({name, group.text("format", overall), texts_or_none(group, "targets"), parse_args(group, "weights"),
                   parse_args(group, "input_activations"), parse_args(group, "output_activations")});
  }
  return out;
}

std::vector<QuantGroup> parse_fp8(const JsonObject& q) {
  for (const auto& [name, only] : {std::pair{"fmt", "e4m3"}, {"expert_dtype", "fp8"}})
    if (const std::string given = q.text(name, only); given != only)
      q.fail(name, fmt::format("is '{}'; only {} can be read", given, only));
  QuantGroup group{"fp8", "", {"Linear"}, QuantArgs{}, QuantArgs{}, std::nullopt};
  QuantArgs &weights = *group.weights, &inputs = *group.input_activations;
  weights.type = inputs.type = QuantType::floating;
  weights.power_of_two_scale = q.text("scale_fmt", "") == "ue8m0";
  if (q.has("weight_block_size")) {
    weights.strategy = QuantStrategy::block;
    weights.block = block_of(q, "weight_block_size");
  }
  const std::string scheme = lower(q.text("activation_scheme", "dynamic"));
  if (scheme != "dynamic" && scheme != "static")
    q.fail("activation_scheme", fmt::format("is '{}'; dynamic and static are known", scheme));
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

  Regex regex(const std::string& pattern, const JsonObject& q) {
    if (++regexes > kMaxRegexes) q.fail(fmt::format("has more than {} regular expressions", kMaxRegexes));
    return Regex(pattern, Regex::Text::bytes, q.origin());
  }
};

QuantizationConfig::QuantizationConfig(const std::filesystem::path& file, const Json& config) : impl_(std::make_unique<Impl>()) {
  const JsonObject q(config, file, "quantization_config", JsonNull::absent);
  Impl& out = *impl_;
  const std::string method = q.text("quant_method");
  if (method == "compressed-tensors") {
    out.groups = parse_compressed_tensors(q);
    out.ignored = texts_or_none(q, "ignore");
    for (const std::string& name : out.ignored) {
      if (is_regex(name)) out.ignored_regexes.push_back(out.regex(name.substr(kRegexMark.size()), q));
      else out.ignored_names.insert(name);
    }
  } else if (method == "fp8") {
    out.dialect = QuantDialect::fp8;
    out.groups = parse_fp8(q);
    out.ignored = texts_or_none(q, q.has("modules_to_not_convert") ? "modules_to_not_convert" : "ignored_layers");
    for (const std::string& name : out.ignored) {
      out.ignored_ends.push_back(name);
      // A plain name needs no matcher, and a model may list thousands.
      if (name.find_first_of("\\^$*+?()[]{}|") != std::string::npos) {
        out.ignored_regexes.push_back(out.regex(fmt::format("(?:{})(?:(?<=\\.)|(?=\\.|$))", name), q));
      }
    }
  } else {
    q.fail("quant_method", fmt::format("is '{}'; compressed-tensors and fp8 can be read", method.substr(0, 100)));
  }
  for (size_t i = 0; i < out.groups.size(); ++i) {
    for (const std::string& target : out.groups[i].targets) {
      if (!is_regex(target)) out.exact_targets[target] = i;
      else out.regex_targets.insert_or_assign(target, std::pair(out.regex(target.substr(kRegexMark.size()), q), i));
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

bool has_quantization_config(const Json& config) {
  return config.is_object() && config.contains("quantization_config") && !config["quantization_config"].is_null();
}

std::vector<std::string> foreign_quantization_keys(const Json& config) {
  std::vector<std::string> keys;
  for (const std::string_view key : kForeignQuantizationKeys)
    if (config.is_object() && config.contains(key)) keys.emplace_back(key);
  return keys;
}

bool is_activation_parameter(std::string_view tensor) {
  constexpr std::string_view kOthers[] = {
      kInputZeroPointSuffix, ".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale",
      ".k_zero_point",       ".v_zero_point"};
  const auto ends = [&](std::string_view suffix) { return tensor.ends_with(suffix); };
  return std::ranges::any_of(kInputScaleSuffixes, ends) || std::ranges::any_of(kOthers, ends);
}

}  // namespace overproof
