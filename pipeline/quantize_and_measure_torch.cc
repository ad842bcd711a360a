#include "pipeline/quantize_checked.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/tokenizer.h"
#include "evaluate/compare.h"
#include "formats/tensor_name.h"
#include "model/torch_setup.h"
#include "quantize/engine/plan.h"

namespace overproof {
namespace {

/// Tokens of a window of plain text: long enough that most positions have a context.
constexpr int64_t kTextWindow = 256;
constexpr int64_t kWindowsAtATime = 4;

/// The parent model, the text to measure on and the parent's outputs; used by all trials.
class QualityMeter {
 public:
  QualityMeter(const CheckedQuantizeConfig& config, const Inputs& inputs)
      : parent_(open_checkpoint(inputs.path("model"))),
        windows_(windows(config, inputs)),
        states_(final_states(parent_, windows_)) {}

  Divergence measure(const fs::path& checkpoint) const {
    const Decoder child(open_checkpoint(checkpoint));
    Progress progress("evaluate", windows_.tokens_read(), "tokens");
    int64_t done = 0;
    const States states = final_states(child, windows_, [&](int64_t tokens) { progress.update(done += tokens); });
    return compare_states(parent_, states_.hidden, child, states.hidden, windows_);
  }
  int64_t tokens() const { return windows_.tokens(); }

 private:
  static TokenWindows windows(const CheckedQuantizeConfig& config, const Inputs& inputs) {
    if (inputs.has("corpus")) {
      const Corpus corpus(inputs.path("corpus"));
      require_tokenizer(inputs.path("model"), corpus.tokenizer(), "the corpus");
      return held_out_windows(corpus, config.evaluate_tokens, kWindowsAtATime);
    }
    if (inputs.has("text"))
      return text_windows(inputs.path("text"), *open_tokenizer(inputs.path("model")), kTextWindow, config.evaluate_tokens,
                          kWindowsAtATime);
    throw UsageError("there is no text to measure quality on: give a corpus artifact with --corpus, or a text with --text");
  }

  Decoder parent_;
  TokenWindows windows_;
  States states_;
};

/// Packed codes without rounded inputs: transformers 5.23 loads no routed experts in 16 bits from such a checkpoint.
bool needs_experts_in_8_bits(const QuantizeConfig& config) {
  const auto scheme = find_scheme(config.scheme, {config.clipping, config.per_tensor, config.asymmetric});
  return scheme->container() == Container::compressed_tensors && !scheme->input_rounding();
}

/// Weights by fused_unit(), the unit with the noisiest weight first, with routed experts or without; from the metric "tensors_sqnr".
std::vector<std::vector<std::string>> units_noisiest_first(const Json& tensors_sqnr, bool experts) {
  std::map<std::string, std::pair<double, std::vector<std::string>>> units;
  for (const auto& [name, db] : tensors_sqnr.items()) {
    if (!experts && TensorName::parse(name).expert >= 0) continue;
    auto& [least, members] = units.try_emplace(fused_unit(name), db.get<double>(), std::vector<std::string>{}).first->second;
    least = std::min(least, db.get<double>());
    members.push_back(name);
  }
  std::vector<std::pair<double, std::vector<std::string>>> sorted;
  for (auto& [unit, entry] : units) sorted.push_back(std::move(entry));
  std::ranges::stable_sort(sorted, {}, [](const auto& entry) { return entry.first; });
  std::vector<std::vector<std::string>> result;
  for (auto& [db, members] : sorted) result.push_back(std::move(members));
  return result;
}

std::vector<std::string> first_units(const std::vector<std::vector<std::string>>& units, int64_t count) {
  std::vector<std::string> kept;
  for (int64_t u = 0; u < count; ++u) kept.insert(kept.end(), units[size_t(u)].begin(), units[size_t(u)].end());
  return kept;
}

QuantizeConfig keeping(QuantizeConfig config, const std::vector<std::string>& kept) {
  StringPairs overrides;
  for (const std::string& name : kept) overrides.emplace_back(name, "none");
  config.overrides.insert(config.overrides.begin(), overrides.begin(), overrides.end());
  return config;
}

std::string noisiest(const StageReport& report, size_t count) {
  std::vector<std::pair<double, std::string>> all;
  for (const auto& [name, db] : report.metrics()["tensors_sqnr"].items()) all.emplace_back(db.get<double>(), name);
  std::ranges::sort(all);
  std::vector<std::string> words;
  for (size_t i = 0; i < std::min(count, all.size()); ++i)
    words.push_back(fmt::format("{} ({:.1f} dB)", all[i].second, all[i].first));
  return fmt::format("{}", fmt::join(words, ", "));
}

/// One configuration, quantized and measured in the scratch folder.
struct Trial {
  StageReport report;
  Divergence quality;
};
Trial try_out(const QuantizeConfig& config, const Inputs& inputs, const fs::path& scratch, const QualityMeter& meter) {
  const fs::path folder = scratch / "trial";
  const auto clear = [&] {
    for (const char* name : {"trial", "trial-scratch"}) fs::remove_all(scratch / name);
  };
  clear();
  fs::create_directories(folder);
  fs::create_directories(scratch / "trial-scratch");
  Outputs outputs(folder, scratch / "trial-scratch");
  const Inputs copy(inputs.all());  // digests are noted once, by the final run
  Trial trial{run_quantize(config, copy, outputs), {}};
  trial.quality = meter.measure(folder);
  clear();
  return trial;
}

struct Budgeted {
  std::vector<std::string> kept;
  int64_t trials = 0;
};

/// The fewest units that bring the KL below the budget when they are not quantized.
Budgeted spend_budget(const CheckedQuantizeConfig& config, const Inputs& inputs, const fs::path& scratch, const QualityMeter& meter) {
  const Trial all = try_out(config.quantize, inputs, scratch, meter);
  Budgeted result{{}, 1};
  if (all.quality.kl_mean <= config.kl_budget) return result;
  const Json& noise = all.report.metrics()["tensors_sqnr"];
  const auto every_unit = units_noisiest_first(noise, true);
  const auto units = needs_experts_in_8_bits(config.quantize) ? units_noisiest_first(noise, false) : every_unit;
  const bool experts_stay = units.size() < every_unit.size();
  // At least one unit is quantized: a model without any is not a result.
  int64_t enough = int64_t(units.size()) - (experts_stay ? 0 : 1), too_few = 0;
  if (enough < 1)
    throw QualityError(fmt::format("kl-budget {} cannot be kept: the model has one group of weights, with a KL of {:.5f}", config.kl_budget, all.quality.kl_mean));
  const auto kl_keeping = [&](int64_t count) {
    ++result.trials;
    return try_out(keeping(config.quantize, first_units(units, count)), inputs, scratch, meter).quality.kl_mean;
  };
  if (const double least = kl_keeping(enough); !(least <= config.kl_budget))
    throw QualityError(
        experts_stay
            ? fmt::format("kl-budget {} cannot be kept: with only the routed experts quantized, which transformers loads in no other way in "
                          "this format, the KL is {:.5f}; scheme fp8 can keep the experts of whole layers",
                          config.kl_budget, least)
            : fmt::format("kl-budget {} cannot be kept: with only one of {} groups of weights quantized the KL is {:.5f}", config.kl_budget,
                          units.size(), least));
  while (enough - too_few > 1) {
    const int64_t middle = too_few + (enough - too_few) / 2;
    (kl_keeping(middle) <= config.kl_budget ? enough : too_few) = middle;
  }
  result.kept = first_units(units, enough);
  return result;
}

}  // namespace

StageReport quantize_and_measure(const CheckedQuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  const QualityMeter meter(config, inputs);
  Budgeted budgeted;
  if (config.kl_budget > 0) budgeted = spend_budget(config, inputs, outputs.scratch(), meter);

  StageReport report = run_quantize(keeping(config.quantize, budgeted.kept), inputs, outputs);
  const Divergence quality = meter.measure(outputs.folder().path());
  report.metrics()["quality"] = {{"tokens", meter.tokens()},
                                 {"kl_mean", quality.kl_mean},
                                 {"kl_p99", quality.kl_p99},
                                 {"perplexity_ratio", quality.perplexity / quality.teacher_perplexity},
                                 {"top1_agreement", quality.top1}};
  report.summary.push_back(fmt::format(
      "KL to the parent {:.5f} nats a token on {} held-out tokens (99th percentile {:.4f}), perplexity {:.3f} -> {:.3f}, "
      "same most probable token at {:.1f} %",
      quality.kl_mean, meter.tokens(), quality.kl_p99, quality.teacher_perplexity, quality.perplexity, 100 * quality.top1));
  if (config.kl_budget > 0) {
    report.metrics()["kept_for_budget"] = budgeted.kept;
    report.metrics()["budget_trials"] = budgeted.trials;
    report.summary.push_back(fmt::format("left {} weights unquantized for a budget of {} ({} trials)", budgeted.kept.size(),
                                         config.kl_budget, budgeted.trials));
  }
  if (config.max_kl > 0 && !(quality.kl_mean <= config.max_kl))
    throw QualityError(fmt::format(
        "the KL to the parent is {:.5f}, above max-kl {}; no artifact was written. Noisiest weights: {}. Exclude some with "
        "--exclude or --kl-budget, or use another scheme",
        quality.kl_mean, config.max_kl, noisiest(report, 5)));
  return report;
}

}  // namespace overproof
