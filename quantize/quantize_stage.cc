#include "quantize/quantize_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer_files.h"
#include "formats/architecture.h"
#include "formats/model_check.h"
#include "formats/model_config.h"
#include "formats/model_size.h"
#include "formats/quantization_config.h"
#include "formats/sharded.h"
#include "provenance/artifact.h"
#include "provenance/oms.h"
#include "provenance/outside.h"
#include "provenance/run_folder.h"
#include "quantize/calibration/calibration.h"
#include "quantize/gguf_run.h"
#include "quantize/gpu/gpu_rows.h"

namespace overproof {
namespace {

/// Signal-to-quantization-noise ratio. Capped: weights that int8 represents exactly have no noise.
double sqnr_db(const RowError& error) {
  constexpr double kExact = 200.0;
  if (error.noise <= 0 || error.signal <= 0) return kExact;
  return std::min(kExact, 10.0 * std::log10(error.signal / error.noise));
}

/// Two decimals: enough to read, and independent of the last bits of a logarithm, which differ between C libraries.
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

/// The model that `model` was made from first, found through the statements next to it; nothing where there is none, or `model` is
/// that itself.
std::optional<fs::path> teacher_of(const fs::path& model) {
  try {
    const RunFolder run = load_run(model, VerifyFiles::no, nullptr);
    const auto place =
        std::ranges::find(run.nodes, fs::canonical(model), [](const ArtifactNode& n) { return fs::canonical(n.path); });
    if (place == run.nodes.end()) return std::nullopt;
    int node = int(place - run.nodes.begin());
    const int first = node;
    for (size_t steps = 0; steps < run.nodes.size(); ++steps) {
      int parent = -1;
      for (const char* slot : {"teacher", "student", "model"})
        if (const auto found = run.nodes[size_t(node)].parents.find(slot);
            parent < 0 && found != run.nodes[size_t(node)].parents.end())
          parent = found->second;
      if (parent < 0) break;
      node = parent;
    }
    if (node == first) return std::nullopt;
    return run.nodes[size_t(node)].path;
  } catch (const Interrupted&) {
    throw;
  } catch (const Error&) {  // no run, or one that does not hold: only a sentence for the user depends on it
    return std::nullopt;
  }
}

/// "210 int8-g128, 3 int8": how many weights each scheme holds.
std::string scheme_counts(const Plan& plan) {
  std::vector<std::string> parts;
  for (const auto& scheme : plan.schemes) {
    const auto n = std::ranges::count(plan.items, scheme.get(), [](const PlanItem& item) { return item.scheme; });
    if (n > 0) parts.push_back(fmt::format("{} {}", n, scheme->name()));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

/// Recorded activations and the calibration that reads them, which must both outlive the run.
struct OpenCalibration {
  ActivationStatistics statistics;
  Calibration calibration;
  OpenCalibration(const fs::path& path, const CalibrationOptions& options, const Checkpoint& model, const Scheme& scheme,
                  std::function<bool(const std::string&)> is_quantized)
      : statistics(path), calibration(options, model, scheme, statistics, std::move(is_quantized)) {}
};

/// Null when no activations are given.
std::unique_ptr<OpenCalibration> open_calibration(const QuantizeConfig& config, const Inputs& inputs, const Checkpoint& model,
                                                  const Plan& plan) {
  const CalibrationOptions options{
      config.smooth, config.smooth_strength, config.gptq, {config.dampening, config.act_order}, config.min_tokens};
  if (!inputs.has("activations")) {
    if (config.smooth || config.gptq)
      throw UsageError("smooth and gptq need --activations: the artifact that `overproof activations` made from this model");
    return nullptr;
  }
  std::set<std::string> quantized;
  for (const PlanItem& item : plan.items)
    if (item.scheme) quantized.insert(item.source.name);
  auto open = std::make_unique<OpenCalibration>(inputs.path("activations"), options, model, *plan.schemes[0],
                                                [quantized](const std::string& name) { return quantized.contains(name); });
  // A model without a statement has no root until it has been read, so it is read once more here.
  const Digest wanted = open->statistics.model_root();
  if (wanted != inputs.root("model") && wanted != scan_input(inputs.path("model")).root)
    throw MismatchError(
        fmt::format("the activations {} were recorded from another model than {}; run `overproof activations` on it",
                    inputs.path("activations").string(), inputs.path("model").string()));
  return open;
}

/// Plans a GGUF file: chosen weights become blocks of ggml, the others keep their type, or become f32 where GGUF lacks it.
std::unique_ptr<GgufRun> plan_blocks(const QuantizeConfig& config, const Checkpoint& model, Plan chosen) {
  if (config.smooth || config.gptq) throw UsageError(fmt::format("smooth and gptq do not support scheme {}", config.scheme));
  std::map<std::string, const PlanItem*, std::less<>> items;
  for (const PlanItem& item : chosen.items) items[item.source.name] = &item;
  const std::set<std::string> fused(chosen.fused.begin(), chosen.fused.end());
  const auto quantizes = [&](const std::string& source) { return items.at(source)->scheme != nullptr || fused.contains(source); };
  const auto type_of = [&](const std::string& source, const GgufTensorInfo&) {
    if (quantizes(source)) return GgmlType::q8_0;
    const DType dtype = items.at(source)->kept_as;
    return dtype == DType::f16 ? GgmlType::f16 : dtype == DType::bf16 ? GgmlType::bf16 : GgmlType::f32;
  };
  auto run = plan_gguf_run(model, type_of, std::move(chosen.schemes[0]), config.name);
  for (size_t i = 0; i < run->plan.items.size(); ++i) {
    const GgmlType type = run->parts->output_of(i).info.type;
    const std::string* source = run->parts->source_of(i);
    if (source && quantizes(*source) != (type == GgmlType::q8_0) && type != GgmlType::f16)
      throw UsageError(fmt::format(
          "{}: GGUF stacks all experts of a layer in one tensor of one type; use a pattern that matches all of them", *source));
  }
  run->plan.not_taken = std::move(chosen.not_taken);
  run->plan.assumption = std::move(chosen.assumption);
  for (const std::string& name : run->gguf.skipped)
    run->notes.push_back("not written, because the model does not use it: " + name);
  return run;
}

PlanOptions plan_options(const QuantizeConfig& c) {
  return {c.scheme, {c.clipping, c.per_tensor, c.asymmetric}, c.include, c.exclude, c.overrides, c.kept_dtype};
}

/// One run: plan, stream, report.
class QuantizeRun {
 public:
  QuantizeRun(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs)
      : config_(config),
        inputs_(inputs),
        outputs_(outputs),
        model_(open_checkpoint(inputs.path("model"))),
        notes_(check_model(model_)),
        plan_(make_plan(plan_options(config), model_)) {
    refuse_damaged_tokenizer(model_.path);
    for (const PlanItem& item : plan_.items)
      if (const auto rounding = item.scheme ? item.scheme->input_rounding() : std::nullopt;
          rounding && rounding->is_static && !inputs.has("activations"))
        throw UsageError(fmt::format("scheme '{}' needs --activations: the artifact that `overproof activations` made from this model",
                                     item.scheme->name()));
    if (plan_.schemes[0]->container() == Container::gguf) {
      gguf_ = plan_blocks(config_, model_, std::move(plan_));
      notes_ = gguf_->notes;  // which has those of the model
    } else {
      note_stale_scales();
      calibration_ = open_calibration(config_, inputs_, model_, plan_);
      if (calibration_) plan_.calibration = &calibration_->calibration;
    }
    gpu_ = open_device(config_.device, config_.device == DeviceChoice::cpu ? GpuPlugin() : open_gpu_plugin(), device_note_);
  }

  void stream() {
    const EngineOptions options{.block_bytes = config_.block_bytes, .gpu = gpu_.get()};
    if (gguf_) {
      made_ = gguf_->write(outputs_, options);
      return;
    }
    const SinkMaker make_sink = [&](OutputFolder& to, const std::vector<TensorInfo>& tensors) {
      return std::make_unique<ShardedWriter>(to, tensors, Metadata{{"format", "pt"}}, config_.max_shard_bytes);
    };
    write_companions();  // before the weights: what cannot be written ends the run in its first second
    made_ = run_engine(plan_, model_, make_sink, outputs_, options);
    note_digests(outputs_, "model", model_, made_);
  }

  StageReport report(double seconds) {
    StageReport report;
    const Quality quality = measured();
    report_tensors(quality, report);
    report_exceptions(report);
    if (gpu_)
      device_note_ =
          fmt::format("{} quantized {} of {} weights, the CPU the others", gpu_->device().name, made_.by_gpu, plan().quantized);
    if (!device_note_.empty())
      report.summary.push_back("note: " + device_note_);  // not in the statement: it depends on the machine
    if (calibration_) {
      report.metrics()["calibration"] = calibration_->calibration.metrics();
      for (std::string& line : calibration_->calibration.summary()) report.summary.push_back(std::move(line));
    }
    int64_t bytes_in = 0;
    for (const TensorInfo& t : model_.tensors->tensors()) bytes_in += t.bytes();
    report.summary.push_back(fmt::format(
        "{:.3f} GB -> {:.3f} GB in {:.1f} s: {:.2f} GB/s read{}{}{}", double(bytes_in) * 1e-9, double(bytes_out()) * 1e-9, seconds,
        double(made_.bytes_read) * 1e-9 / std::max(seconds, 1e-9),
        double(made_.bytes_read) > 1.05 * double(bytes_in) ? fmt::format(", {:.1f} times in all", double(made_.bytes_read) / double(std::max<int64_t>(bytes_in, 1))) : "",
        made_.direct ? ", direct" : ", through the page cache",
        made_.resumed_items > 0 ? fmt::format("; resumed after {} tensors of an earlier run", made_.resumed_items) : ""));
    report_size(report);
    report.summary.push_back(fmt::format("signal to noise: mean {:.1f} dB, lowest {}", quality.mean, quality.worst(3)));
    return report;
  }

 private:
  /// They do not apply to the new weights, and are not written.
  void note_stale_scales() {
    const Architecture architecture(*model_.config);
    std::vector<std::string> stale;
    for (const TensorInfo& t : model_.tensors->tensors())
      if (architecture.role(t) == TensorRole::quantization) stale.push_back(t.name);
    if (!stale.empty())
      notes_.push_back(fmt::format("not written: {} scales by which the model's quantizer rounds activations or the KV cache ({}{})",
                                   stale.size(), stale[0], stale.size() > 1 ? ", ..." : ""));
  }

  const Plan& plan() const { return gguf_ ? gguf_->plan : plan_; }

  /// The files that loaders need next to the tensors.
  void write_companions() {
    OutputFolder& folder = outputs_.folder();
    Json config = *model_.config;
    config["quantization_config"] = quantization_config(plan_);
    for (const std::string& key : foreign_quantization_keys(config)) {
      config.erase(key);
      notes_.push_back(fmt::format("config.json: '{}' of the model is not written, it would contradict quantization_config", key));
    }
    // transformers makes the weights of this format in the type of the configuration and leaves kept tables in theirs, so that the two
    // must be one.
    if (plan_.schemes[0]->container() == Container::deepseek_fp8)
      for (const PlanItem& item : plan_.items)
        if (!item.scheme && item.source.name == "model.embed_tokens.weight") set_stored_dtype(config, item.kept_as);
    // Without a type, loaders take that of the first tensor that they find, which would be a scale.
    if (config.value("dtype", Json()).is_null() && config.value("torch_dtype", Json()).is_null())
      for (const TensorInfo& t : model_.tensors->tensors())
        if (t.dtype == DType::f32 || t.dtype == DType::f16 || t.dtype == DType::bf16) {
          set_stored_dtype(config, t.dtype);
          break;
        }
    folder.write_file("config.json", config.dump(2) + "\n");
    if (std::string note = copy_companions(model_.path, folder); !note.empty()) notes_.push_back(std::move(note));
  }

  int64_t bytes_out() const {
    int64_t bytes = 0;
    for (const FileRecord& record : outputs_.folder().records())
      if (record.name.ends_with(".safetensors") || record.name == kGgufName) bytes += record.bytes;
    return bytes;
  }

  /// Against the teacher in bf16 where one is next to the model, else against the model itself. Not in the statement, because it
  /// depends on neighbours.
  void report_size(StageReport& report) const {
    const std::optional<fs::path> teacher = teacher_of(model_.path);
    const int64_t reference = teacher ? bf16_bytes(open_checkpoint(*teacher)) : bf16_bytes(model_);
    const std::string_view name = teacher ? "the teacher" : "the model";
    report.summary.push_back(size_against(bytes_out(), reference, name));
    if (std::string warning = size_warning(bytes_out(), reference, "the result", name); !warning.empty())
      report.summary.push_back(std::move(warning));
  }

  /// What stays in 16 or 32 bits, by dtype: matrices by name, the rest by number.
  void report_kept(StageReport& report) const {
    constexpr size_t kNamed = 6;
    Json names = Json::object();
    std::vector<std::string> words;
    int64_t bytes = 0, small = 0, small_bytes = 0;
    for (size_t i = 0; i < plan().items.size(); ++i) {
      const PlanItem& item = plan().items[i];
      if (item.scheme) continue;
      const std::string* source = gguf_ ? gguf_->parts->source_of(i) : &item.source.name;
      const int64_t size = TensorInfo{item.source.name, item.kept_as, item.source.shape}.bytes();
      if (item.source.shape.size() < 2 || !source || is_always_f32(*source)) {
        ++small;
        small_bytes += size;
        continue;
      }
      bytes += size;
      names[*source] = dtype_name(item.kept_as);
      if (words.size() < kNamed)
        words.push_back(fmt::format("{} as {} ({:.1f} MB)", *source, dtype_name(item.kept_as), double(size) * 1e-6));
    }
    report.metrics()["kept_matrices"] = names;
    std::string line = "kept: ";
    for (const std::string& word : words) line += word + ", ";
    if (names.size() > words.size())
      line += fmt::format("and {} more matrices ({:.1f} MB in all), ", names.size() - words.size(), double(bytes) * 1e-6);
    report.summary.push_back(
        line + fmt::format("{} norms, routers and other small tensors ({:.1f} MB)", small, double(small_bytes) * 1e-6));
  }

  Quality measured() const {
    return {plan(), made_.errors, [&](size_t i) { return gguf_ ? *gguf_->parts->source_of(i) : plan_.items[i].source.name; }};
  }

  void report_tensors(const Quality& quality, StageReport& report) const {
    const int64_t all = int64_t(plan().items.size());
    report.metrics() = {{"tensors", all},
                        {"quantised", plan().quantized},
                        {"kept", all - plan().quantized},
                        {"bytes_in", plan().bytes_in},
                        {"bytes_out", bytes_out()},
                        {"sqnr_db",
                         {{"mean", rounded_db(quality.mean)},
                          {"worst", rounded_db(quality.worst_first[0].first)},
                          {"worst_tensor", quality.worst_first[0].second}}},
                        {"tensors_sqnr", quality.tensors()}};
    report.summary.push_back(fmt::format("quantized {} of {} tensors ({}); kept {}", plan().quantized, all, scheme_counts(plan()),
                                         all - plan().quantized));
    report_kept(report);
  }

  /// Weights that did not get the main scheme, and why.
  void report_exceptions(StageReport& report) {
    if (!plan().assumption.empty()) {
      report.metrics()["assumption"] = plan().assumption;
      report.summary.push_back("note: " + plan().assumption);
    }
    if (!gguf_ && !plan_.fused.empty())
      notes_.push_back(
          fmt::format("kept {} stacks of experts, because no loader of this architecture reads them in 8 bits ({}, ...)",
                      plan_.fused.size(), plan_.fused[0]));
    const bool packed = !gguf_ && plan_.schemes[0]->int8_layout() && !plan_.schemes[0]->input_rounding();
    const Architecture architecture(*model_.config);
    if (packed && std::ranges::any_of(plan_.items, [&](const PlanItem& item) {
          return !item.scheme && architecture.role(item.source) == TensorRole::expert_linear;
        }))
      notes_.push_back("transformers 5.23 loads no checkpoint of this format in which routed experts have 16 bits; vLLM does, and transformers "
                       "loads scheme fp8 with the experts of whole layers kept");
    if (!plan().fallen_back.empty()) {
      report.metrics()["fallen_back"] = plan().fallen_back;
      notes_.push_back(fmt::format(
          "{} weights have one scale per row, in a group of their own, because scheme {} cannot hold them or a weight that "
          "runtimes load together with them: {}{}",
          plan().fallen_back.size(), config_.scheme, plan().fallen_back[0], plan().fallen_back.size() > 1 ? ", ..." : ""));
    }
    if (!notes_.empty()) report.metrics()["notes"] = notes_;
    for (const std::string& note : notes_) report.summary.push_back("note: " + note);
    if (!plan().not_taken.empty()) {
      report.metrics()["not_taken"] = plan().not_taken;
      report.summary.push_back(
          fmt::format("kept {} weights in 16 bits or more, because scheme {} cannot hold them{} or a weight that runtimes load "
                      "together with them: {}{}",
                      plan().not_taken.size(), config_.scheme, plan().schemes[0]->needs_shape(), plan().not_taken[0],
                      plan().not_taken.size() > 1 ? ", ..." : ""));
    }
  }

  const QuantizeConfig& config_;
  const Inputs& inputs_;
  Outputs& outputs_;
  const Checkpoint model_;
  std::vector<std::string> notes_;
  Plan plan_;
  std::unique_ptr<GgufRun> gguf_;  // for GGUF schemes; its plan replaces plan_
  std::unique_ptr<OpenCalibration> calibration_;
  std::unique_ptr<GpuSession> gpu_;
  std::string device_note_;
  EngineResult made_;
};

}  // namespace

StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  const auto started = std::chrono::steady_clock::now();
  QuantizeRun run(config, inputs, outputs);
  run.stream();
  return run.report(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
}

}  // namespace overproof
