#include "quantize/quantize_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "data/gguf_vocabulary.h"
#include "data/tokenizer_files.h"
#include "formats/gguf_parts.h"
#include "formats/sharded.h"
#include "provenance/artifact.h"
#include "quantize/calibration.h"
#include "quantize/export_stage.h"

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

  Quality(const Plan& plan, const std::vector<RowError>& errors, const std::function<std::string(size_t)>& name) {
    for (size_t i = 0; i < plan.items.size(); ++i)
      if (plan.items[i].scheme) worst_first.emplace_back(sqnr_db(errors[i]), name(i));
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

/// What recorded activations are to do; both must outlive the run.
struct OpenCalibration {
  ActivationStatistics statistics;
  Calibration calibration;
  OpenCalibration(const fs::path& path, const CalibrationOptions& options, const Checkpoint& model, const Scheme& scheme,
                  std::function<bool(const std::string&)> is_quantised)
      : statistics(path), calibration(options, model, scheme, statistics, std::move(is_quantised)) {}
};

/// Null when no activations are given.
std::unique_ptr<OpenCalibration> open_calibration(const QuantizeConfig& config, const Inputs& inputs, const Checkpoint& model,
                                                  const Plan& plan) {
  CalibrationOptions options{config.smooth, -1, config.gptq, {config.dampening, config.act_order}, config.min_tokens};
  if (config.smooth_strength != "auto") {
    const char *text = config.smooth_strength.c_str(), *end = text + config.smooth_strength.size();
    const auto [at, fault] = std::from_chars(text, end, options.strength);
    if (fault != std::errc() || at != end || !(options.strength >= 0 && options.strength <= 1))
      throw UsageError(fmt::format("smooth-strength is 'auto' or a number from 0 to 1, not '{}'", config.smooth_strength));
  }
  if (!inputs.has("activations")) {
    if (config.smooth || config.gptq)
      throw UsageError("smooth and gptq need --activations: what `overproof activations` recorded of this model");
    return nullptr;
  }
  std::set<std::string> quantised;
  for (const PlanItem& item : plan.items)
    if (item.scheme) quantised.insert(item.source.name);
  auto open = std::make_unique<OpenCalibration>(inputs.path("activations"), options, model, *plan.schemes[0],
                                                [quantised](const std::string& name) { return quantised.contains(name); });
  // A model without a statement has no root until it is read; then it is read once more for this.
  const Digest wanted = open->statistics.model_root();
  if (wanted != inputs.root("model") && wanted != scan_artifact(inputs.path("model")).root)
    throw UsageError("these activations were recorded of another model; run `overproof activations` on this one");
  return open;
}

/// A checkpoint on its way into a GGUF file: the engine goes through its parts.
struct GgufRun {
  GgufPlan gguf;
  Checkpoint view;  // the model's, with parts for tensors
  const GgufParts* parts = nullptr;
  Plan plan;
};

DType dtype_of(GgmlType type) { return type == GgmlType::f16 ? DType::f16 : type == GgmlType::bf16 ? DType::bf16 : DType::f32; }

/// What `chosen` takes becomes blocks of ggml, the rest keeps its type as far as GGUF has it.
std::unique_ptr<GgufRun> plan_gguf_run(const QuantizeConfig& config, const Checkpoint& model, Plan chosen) {
  if (config.smooth || config.gptq)
    throw UsageError(fmt::format("smooth and gptq are not for {}, whose scales stand among the codes", config.scheme));
  std::map<std::string, const PlanItem*, std::less<>> items;
  for (const PlanItem& item : chosen.items) items[item.source.name] = &item;
  const std::set<std::string> fused(chosen.fused.begin(), chosen.fused.end());
  const auto quantises = [&](const std::string& source) { return items.at(source)->scheme != nullptr || fused.contains(source); };
  auto run = std::make_unique<GgufRun>();
  run->gguf = plan_gguf(model, [&](const std::string& source, const GgufTensorInfo&) {
    const PlanItem& item = *items.at(source);
    if (quantises(source)) return GgmlType::q8_0;
    return item.source.dtype == DType::f16 ? GgmlType::f16 : item.source.dtype == DType::bf16 ? GgmlType::bf16 : GgmlType::f32;
  });
  auto parts = std::make_unique<GgufParts>(*model.tensors, run->gguf);
  run->parts = parts.get();
  for (size_t i = 0; i < parts->tensors().size(); ++i) {
    PlanItem item{parts->tensors()[i]};
    const GgmlType type = parts->output_of(i).info.type;
    const bool quantised = type == GgmlType::q8_0;
    if (const std::string* source = parts->source_of(i); source && quantises(*source) != quantised && type != GgmlType::f16)
      throw UsageError(fmt::format("{}: GGUF stacks all experts of a layer in one tensor of one type; widen the pattern", *source));
    if (quantised) {
      item.scheme = chosen.schemes[0].get();
      item.outputs = item.scheme->outputs(item.source);
      ++run->plan.quantised;
    } else {
      item.kept_as = dtype_of(type);
      item.outputs = {item.source};
      item.outputs[0].dtype = item.kept_as;
    }
    run->plan.bytes_in += item.source.bytes();
    run->plan.outputs.insert(run->plan.outputs.end(), item.outputs.begin(), item.outputs.end());
    run->plan.items.push_back(std::move(item));
  }
  run->plan.schemes = std::move(chosen.schemes);
  run->plan.not_taken = std::move(chosen.not_taken);
  run->plan.assumption = std::move(chosen.assumption);
  run->view.path = model.path;
  *run->view.config = *model.config;
  run->view.tensors = std::move(parts);
  constexpr int64_t kMostlyQ8_0 = 7, kBlockVersion = 2;  // llama_ftype and GGML_QNT_VERSION of llama.cpp
  for (const auto& [key, value] : {std::pair{"general.file_type", kMostlyQ8_0}, {"general.quantization_version", kBlockVersion}})
    if (!run->gguf.metadata.has(key)) run->gguf.metadata.add_u32(key, value);
  return run;
}

}  // namespace

StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  const auto started = std::chrono::steady_clock::now();
  const Checkpoint model = open_checkpoint(inputs.path("model"));
  Plan plan = make_plan(config, model);
  OutputFolder& folder = outputs.folder();
  const EngineOptions options{.block_bytes = config.block_bytes};

  std::unique_ptr<OpenCalibration> calibration;
  std::unique_ptr<GgufRun> gguf;
  std::vector<std::string> notes;
  EngineResult made;
  if (plan.schemes[0]->format() == "gguf") {
    gguf = plan_gguf_run(config, model, std::move(plan));
    notes = gguf->gguf.notes;
    for (const std::string& name : gguf->gguf.skipped) notes.push_back("left out, because the model does not use it: " + name);
    std::ranges::move(add_gguf_vocabulary(model.path, model.tensors->find("model.embed_tokens.weight")->shape[0], gguf->gguf.metadata),
                      std::back_inserter(notes));
    const SinkMaker make_sink = [&](OutputFolder& to, const std::vector<TensorInfo>&) {
      return std::make_unique<GgufWriter>(to, kGgufName, gguf->gguf.metadata, gguf->gguf.infos());
    };
    made = run_engine(gguf->plan, gguf->view, make_sink, folder, outputs.scratch(), options);
  } else {
    calibration = open_calibration(config, inputs, model, plan);
    if (calibration) plan.calibration = &calibration->calibration;
    const SinkMaker make_sink = [&](OutputFolder& to, const std::vector<TensorInfo>& tensors) {
      return std::make_unique<ShardedWriter>(to, tensors, Metadata{{"format", "pt"}}, config.max_shard_bytes);
    };
    made = run_engine(plan, model, make_sink, folder, outputs.scratch(), options);
  }
  const Plan& done = gguf ? gguf->plan : plan;
  int64_t bytes_out = 0;
  for (const FileRecord& record : folder.records())
    if (record.name.ends_with(".safetensors") || record.name == kGgufName) bytes_out += record.bytes;
  const bool one_file = !fs::is_directory(model.path);
  for (const FileRecord& record : made.inputs) {
    const fs::path file = record.name;
    inputs.note_digest("model", {one_file ? file.filename().string() : file.lexically_relative(model.path).generic_string(),
                                 record.bytes, record.digest});
  }
  if (!gguf) {
    Json out_config = *model.config;
    out_config["quantization_config"] = quantization_config(plan);
    folder.write_file("config.json", out_config.dump(2) + "\n");
    copy_tokenizer_files(model.path, folder);
    copy_file_if_present(model.path, "generation_config.json", folder);
  }

  const int64_t all = int64_t(done.items.size());
  const Quality quality(done, made.errors, [&](size_t i) { return gguf ? *gguf->parts->source_of(i) : done.items[i].source.name; });
  StageReport report;
  report.metrics() = {{"tensors", all},
                      {"quantised", done.quantised},
                      {"kept", all - done.quantised},
                      {"bytes_in", done.bytes_in},
                      {"bytes_out", bytes_out},
                      {"sqnr_db",
                       {{"mean", rounded_db(quality.mean)},
                        {"worst", rounded_db(quality.worst_first[0].first)},
                        {"worst_tensor", quality.worst_first[0].second}}},
                      {"tensors_sqnr", quality.tensors()}};
  report.summary.push_back(
      fmt::format("{} of {} tensors are in 8 bits now ({}), {} kept their precision (routers, norms, embeddings, head and "
                  "what was excluded)",
                  done.quantised, all, scheme_counts(done), all - done.quantised));
  if (!done.assumption.empty()) {
    report.metrics()["assumption"] = done.assumption;
    report.summary.push_back("note: " + done.assumption);
  }
  if (!gguf && !done.fused.empty())
    notes.push_back(fmt::format("{} stacks of experts kept their precision: the loaders of this architecture take no 8 bits there ({}, ...)",
                                done.fused.size(), done.fused[0]));
  if (!notes.empty()) report.metrics()["notes"] = notes;
  for (const std::string& note : notes) report.summary.push_back("note: " + note);
  if (!done.not_taken.empty())
    report.summary.push_back(
        fmt::format("{} weights kept their precision because the scheme cannot hold them or another part of their expert: {}{}",
                    done.not_taken.size(), done.not_taken[0], done.not_taken.size() > 1 ? ", ..." : ""));
  if (calibration) {
    report.metrics()["calibration"] = calibration->calibration.metrics();
    for (std::string& line : calibration->calibration.summary()) report.summary.push_back(std::move(line));
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  report.summary.push_back(fmt::format(
      "{:.3f} GB -> {:.3f} GB in {:.1f} s: {:.2f} GB/s of input{}{}", double(made.bytes_read) * 1e-9, double(bytes_out) * 1e-9,
      seconds, double(made.bytes_read) * 1e-9 / std::max(seconds, 1e-9), made.direct ? ", direct" : ", through the page cache",
      made.resumed_items > 0 ? fmt::format("; {} tensors were there from an earlier run", made.resumed_items) : ""));
  report.summary.push_back(fmt::format("signal to noise {:.1f} dB on average, least: {}", quality.mean, quality.worst(3)));
  return report;
}

}  // namespace overproof
