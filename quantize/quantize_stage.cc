#include "quantize/quantize_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer_files.h"
#include "formats/sharded.h"

namespace overproof {
namespace {

/// Signal-to-quantisation-noise ratio. Capped: weights that int8 holds exactly have no noise at all.
double sqnr_db(const RowError& error) {
  constexpr double kExact = 200.0;
  if (error.noise <= 0 || error.signal <= 0) return kExact;
  return std::min(kExact, 10.0 * std::log10(error.signal / error.noise));
}

/// Two decimals: what a reader wants, and free of the last bits in which one logarithm differs from another.
double rounded_db(double db) { return std::round(db * 100.0) / 100.0; }

struct Quality {
  std::vector<std::pair<double, std::string>> worst_first;
  double mean = 0;

  Quality(const Plan& plan, const std::vector<RowError>& errors) {
    for (size_t i = 0; i < plan.items.size(); ++i)
      if (plan.items[i].scheme) worst_first.emplace_back(sqnr_db(errors[i]), plan.items[i].source.name);
    for (const auto& [db, name] : worst_first) mean += db / double(worst_first.size());
    std::ranges::sort(worst_first);
  }
  Json tensors() const {
    Json all = Json::object();
    for (const auto& [db, name] : worst_first) all[name] = rounded_db(db);
    return all;
  }
  std::string worst(size_t n) const {
    std::vector<std::string> parts;
    for (size_t i = 0; i < std::min(n, worst_first.size()); ++i)
      parts.push_back(fmt::format("{:.1f} dB {}", worst_first[i].first, worst_first[i].second));
    return fmt::format("{}", fmt::join(parts, ", "));
  }
};

/// Names of the schemes that were used, with how many weights they hold.
std::string scheme_counts(const Plan& plan) {
  std::vector<std::string> parts;
  for (const auto& scheme : plan.schemes) {
    const auto n = std::ranges::count(plan.items, scheme.get(), [](const PlanItem& item) { return item.scheme; });
    if (n > 0) parts.push_back(fmt::format("{} {}", n, scheme->name()));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  const auto started = std::chrono::steady_clock::now();
  const Checkpoint model = open_checkpoint(inputs.path("model"));
  const Plan plan = make_plan(config, *model.tensors, model.path);

  OutputFolder& folder = outputs.folder();
  const SinkMaker make_sink = [&](OutputFolder& to, const std::vector<TensorInfo>& tensors) {
    return std::make_unique<ShardedWriter>(to, tensors, Metadata{{"format", "pt"}}, config.max_shard_bytes);
  };
  const EngineResult made = run_engine(plan, model, make_sink, folder, outputs.scratch(), {.block_bytes = config.block_bytes});
  int64_t bytes_out = 0;
  for (const FileRecord& record : folder.records())
    if (record.name.ends_with(".safetensors")) bytes_out += record.bytes;
  const bool one_file = !fs::is_directory(model.path);
  for (const FileRecord& record : made.inputs) {
    const fs::path file = record.name;
    inputs.note_digest("model", {one_file ? file.filename().string() : file.lexically_relative(model.path).generic_string(),
                                 record.bytes, record.digest});
  }

  Json out_config = *model.config;
  out_config["quantization_config"] = quantization_config(plan);
  folder.write_file("config.json", out_config.dump(2) + "\n");
  copy_tokenizer_files(model.path, folder);
  copy_file_if_present(model.path, "generation_config.json", folder);

  const int64_t all = int64_t(plan.items.size());
  const Quality quality(plan, made.errors);
  StageReport report;
  report.metrics() = {{"tensors", all},
                      {"quantised", plan.quantised},
                      {"kept", all - plan.quantised},
                      {"bytes_in", plan.bytes_in},
                      {"bytes_out", bytes_out},
                      {"sqnr_db",
                       {{"mean", rounded_db(quality.mean)},
                        {"worst", rounded_db(quality.worst_first[0].first)},
                        {"worst_tensor", quality.worst_first[0].second}}},
                      {"tensors_sqnr", quality.tensors()}};
  report.summary.push_back(
      fmt::format("{} of {} tensors are in 8 bits now ({}), {} kept their precision (routers, norms, embeddings, head and "
                  "what was excluded)",
                  plan.quantised, all, scheme_counts(plan), all - plan.quantised));
  if (!plan.not_taken.empty())
    report.summary.push_back(
        fmt::format("{} weights kept their precision because the scheme cannot hold them or another part of their expert: {}{}",
                    plan.not_taken.size(), plan.not_taken[0], plan.not_taken.size() > 1 ? ", ..." : ""));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  report.summary.push_back(fmt::format(
      "{:.3f} GB -> {:.3f} GB in {:.1f} s: {:.2f} GB/s of input{}{}", double(made.bytes_read) * 1e-9, double(bytes_out) * 1e-9,
      seconds, double(made.bytes_read) * 1e-9 / std::max(seconds, 1e-9), made.direct ? ", direct" : ", through the page cache",
      made.resumed_items > 0 ? fmt::format("; {} tensors were there from an earlier run", made.resumed_items) : ""));
  report.summary.push_back(fmt::format("signal to noise {:.1f} dB on average, least: {}", quality.mean, quality.worst(3)));
  return report;
}

}  // namespace overproof
