#include "quantize/quantize_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "data/tokenizer_files.h"
#include "formats/sharded.h"
#include "quantize/calibration.h"

namespace overproof {
namespace {

/// f32 bytes that one task reads and quantises: rows that stay in the second-level cache between the two.
constexpr int64_t kTaskBytes = int64_t{128} << 10;

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    std::string part(text.substr(begin, end - begin));
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    if (!part.empty()) parts.push_back(std::move(part));
    begin = end + 1;
  }
  return parts;
}

bool matches_any(std::string_view text, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& p) { return matches_pattern(text, p); });
}

/// A router decides which experts see a token: a rounding error there changes the function, not its precision.
bool is_protected(std::string_view name) {
  return name.ends_with(".mlp.gate.weight") || name.ends_with("embed_tokens.weight") || name.find("norm") != std::string_view::npos;
}

bool is_linear_weight(const TensorInfo& info) {
  return info.shape.size() == 2 && info.shape[0] > 0 && info.shape[1] > 0 && info.name.ends_with(".weight");
}

/// The dtype in which a tensor that is left alone is written: its own where the writer takes f32 values back exactly.
DType kept_dtype(const TensorInfo& info, const fs::path& model) {
  switch (info.dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16: return info.dtype;
    case DType::f8_e4m3:
    case DType::f8_e5m2: return DType::bf16;  // holds every fp8 value
    default:
      throw FormatError(model, -1, fmt::format("{} is {}, which is no type of a weight", info.name, dtype_name(info.dtype)));
  }
}

struct Plan {
  std::vector<bool> quantise;        ///< for each tensor of the source, in its order
  std::vector<TensorInfo> outputs;   ///< everything that will be written, in order
  std::vector<std::string> ignored;  ///< modules with a matrix that loaders might take for quantised
  int64_t quantised = 0, bytes_in = 0, values_in = 0;
};

Plan make_plan(const QuantizeConfig& config, const Scheme& scheme, const TensorSource& source, const fs::path& model) {
  const std::vector<std::string> include = split_list(config.include), exclude = split_list(config.exclude);
  Plan plan;
  bool head_kept = true;
  for (const TensorInfo& info : source.tensors()) {
    const bool quantise = is_linear_weight(info) && !is_protected(info.name) && matches_any(info.name, include) &&
                          !matches_any(info.name, exclude);
    plan.quantise.push_back(quantise);
    plan.bytes_in += info.elements() * dtype_bytes(info.dtype);
    plan.values_in += info.elements();
    if (quantise) {
      ++plan.quantised;
      if (info.name == "lm_head.weight") head_kept = false;
      std::ranges::move(scheme.outputs(info), std::back_inserter(plan.outputs));
    } else {
      TensorInfo out = info;
      out.dtype = kept_dtype(info, model);
      plan.outputs.push_back(std::move(out));
      if (is_linear_weight(info) && !is_protected(info.name) && info.name != "lm_head.weight")
        plan.ignored.push_back(info.name.substr(0, info.name.size() - std::string_view(".weight").size()));
    }
  }
  // Also named when the checkpoint has no lm_head of its own: with tied embeddings the module exists all the same.
  if (head_kept) plan.ignored.insert(plan.ignored.begin(), "lm_head");
  plan.ignored.push_back("re:.*embed_tokens.*");
  plan.ignored.push_back("re:.*mlp.gate$");
  if (plan.quantised == 0) throw UsageError(fmt::format("no Linear weight matches include '{}' without exclude '{}'", config.include, config.exclude));
  return plan;
}

/// Signal-to-quantisation-noise ratio. Capped: weights that int8 holds exactly have no noise at all.
double sqnr_db(const RowError& error) {
  constexpr double kExact = 200.0;
  if (error.noise <= 0 || error.signal <= 0) return kExact;
  return std::min(kExact, 10.0 * std::log10(error.signal / error.noise));
}

/// Streams tensors of one checkpoint through a scheme, in blocks of rows.
class Stream {
 public:
  Stream(const Scheme& scheme, const Checkpoint& model, const Calibration* calibration, int64_t block_bytes, ShardedWriter& writer)
      : scheme_(scheme), model_(model), calibration_(calibration), block_bytes_(block_bytes), writer_(writer) {}

  template <class Step>
  void copy(const TensorInfo& info, Step&& step) {
    each_block(info, [&](int64_t first, int64_t rows, int64_t columns) {
      values_.resize(size_t(rows * columns));
      model_.tensors->read_f32(info.name, first, rows, values_);
      if (calibration_) calibration_->scaling(info.name).apply(first, rows, values_);
      writer_.append_f32(values_);
      step(rows * columns);
    });
  }

  /// Returns the error sums of the whole weight, added task by task in the order of rows.
  template <class Step>
  RowError quantise(const TensorInfo& info, Step&& step) {
    const int64_t columns = info.shape[1], bytes = scheme_.row_bytes(columns), unit = scheme_.row_unit();
    const int64_t grain = std::max<int64_t>(1, kTaskBytes / (columns * 4) / unit) * unit;
    scales_.resize(size_t(scheme_.row_scales(info.shape[0], columns)));
    const auto statistics = calibration_ ? calibration_->for_weight(info.name) : nullptr;
    auto quantizer = scheme_.prepare(info, {0, statistics.get()});
    if (calibration_) quantizer = calibration_->wrap(info, scheme_, std::move(quantizer));
    RowError total;
    each_block(info, [&](int64_t first, int64_t rows, int64_t) {
      codes_.resize(size_t(rows * bytes));
      errors_.assign(size_t((rows + grain - 1) / grain), {});
      parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
        thread_local std::vector<float> scratch;
        scratch.resize(size_t((end - begin) * columns));
        const std::span<float> values(scratch);
        model_.tensors->read_f32(info.name, first + begin, end - begin, values);
        if (calibration_) calibration_->scaling(info.name).apply(first + begin, end - begin, values);
        const int64_t first_scale = scheme_.row_scales(first + begin, columns), last_scale = scheme_.row_scales(first + end, columns);
        const RowsResult made = quantizer->quantize(first + begin, end - begin, values,
                                                    std::span(codes_).subspan(size_t(begin * bytes), size_t((end - begin) * bytes)),
                                                    std::span(scales_).subspan(size_t(first_scale), size_t(last_scale - first_scale)));
        if (made.bad_row >= 0) throw FormatError(model_.path, -1, fmt::format("{} row {} holds an infinity or NaN", info.name, made.bad_row));
        errors_[size_t(begin / grain)] = made.error;
      });
      for (const RowError& error : errors_) total += error;
      writer_.append(codes_.data(), codes_.size());
      step(rows * columns);
    });
    for (int which = 1; which < int(scheme_.outputs(info).size()); ++which) {
      const std::vector<uint8_t> side = quantizer->side_output(which, scales_);
      writer_.append(side.data(), side.size());
    }
    return total;
  }

 private:
  template <class Body>
  void each_block(const TensorInfo& info, Body&& body) {
    const int64_t rows = info.shape.empty() ? 1 : info.shape[0], columns = rows == 0 ? 0 : info.elements() / rows;
    const int64_t block = std::max<int64_t>(1, block_bytes_ / std::max<int64_t>(4, columns * 4));
    for (int64_t first = 0; first < rows; first += block) {
      throw_if_interrupted();
      body(first, std::min(block, rows - first), columns);
    }
  }

  const Scheme& scheme_;
  const Checkpoint& model_;
  const Calibration* calibration_;
  int64_t block_bytes_;
  ShardedWriter& writer_;
  std::vector<float> values_, scales_;
  std::vector<uint8_t> codes_;
  std::vector<RowError> errors_;
};

struct OpenCalibration {
  ActivationStatistics statistics;
  Calibration calibration;
  OpenCalibration(const fs::path& path, const CalibrationOptions& options, const Checkpoint& model, const Scheme& scheme,
                  std::function<bool(const std::string&)> is_quantised)
      : statistics(path), calibration(options, model, scheme, statistics, std::move(is_quantised)) {}
};

/// Null when no activations are given.
std::unique_ptr<OpenCalibration> open_calibration(const QuantizeConfig& config, const Inputs& inputs, const Checkpoint& model,
                                                  const Scheme& scheme, const Plan& plan) {
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
  for (size_t i = 0; i < plan.quantise.size(); ++i)
    if (plan.quantise[i]) quantised.insert(model.tensors->tensors()[i].name);
  auto open = std::make_unique<OpenCalibration>(inputs.path("activations"), options, model, scheme,
                                                [quantised](const std::string& name) { return quantised.contains(name); });
  if (open->statistics.model_root() != inputs.root("model"))
    throw UsageError("these activations were recorded of another model; run `overproof activations` on this one");
  return open;
}

/// Two decimals: what a reader wants, and free of the last bits in which one logarithm differs from another.
double rounded_db(double db) { return std::round(db * 100.0) / 100.0; }

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

StageReport run_quantize(const QuantizeConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Checkpoint model = open_checkpoint(inputs.path("model"));
  const auto scheme = find_scheme(config.scheme, {config.clipping == "mse" ? Int8Scale::mse : Int8Scale::absmax});
  const TensorSource& source = *model.tensors;
  const Plan plan = make_plan(config, *scheme, source, model.path);

  OutputFolder& folder = outputs.folder();
  ShardedWriter writer(folder, plan.outputs, {{"format", "pt"}}, config.max_shard_bytes);
  const auto calibration = open_calibration(config, inputs, model, *scheme, plan);
  Stream stream(*scheme, model, calibration ? &calibration->calibration : nullptr, config.block_bytes, writer);
  Progress progress("quantize", plan.values_in, "weights");
  int64_t done = 0;
  const auto step = [&](int64_t values) { progress.update(done += values); };

  double sum_db = 0, worst_db = 0;
  std::string worst;
  for (size_t i = 0; i < plan.quantise.size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    if (!plan.quantise[i]) {
      stream.copy(info, step);
      continue;
    }
    const double db = sqnr_db(stream.quantise(info, step));
    sum_db += db;
    if (worst.empty() || db < worst_db) {
      worst_db = db;
      worst = info.name;
    }
  }
  writer.close();

  Json out_config = *model.config;
  out_config["quantization_config"] = scheme->quantization_config(plan.ignored);
  folder.write_file("config.json", out_config.dump(2) + "\n");
  copy_tokenizer_files(model.path, folder);
  copy_file_if_present(model.path, "generation_config.json", folder);

  int64_t bytes_out = 0;
  for (const FileRecord& record : folder.records())
    if (record.name.ends_with(".safetensors")) bytes_out += record.bytes;
  const int64_t all = int64_t(plan.quantise.size());
  StageReport report;
  report.metrics() = {{"tensors", all},
                      {"quantised", plan.quantised},
                      {"kept", all - plan.quantised},
                      {"bytes_in", plan.bytes_in},
                      {"bytes_out", bytes_out},
                      {"sqnr_db",
                       {{"mean", rounded_db(sum_db / double(plan.quantised))}, {"worst", rounded_db(worst_db)}, {"worst_tensor", worst}}}};
  report.summary = {
      fmt::format("{} of {} tensors are {} now, {} kept their precision (routers, norms, embeddings, head and what was excluded)",
                  plan.quantised, all, scheme->name(), all - plan.quantised),
      fmt::format("weights {:.1f} MB -> {:.1f} MB", double(plan.bytes_in) * 1e-6, double(bytes_out) * 1e-6),
      fmt::format("signal to noise {:.1f} dB on average, {:.1f} dB at worst ({})", sum_db / double(plan.quantised), worst_db, worst)};
  if (calibration) {
    report.metrics()["calibration"] = calibration->calibration.metrics();
    for (std::string& line : calibration->calibration.summary()) report.summary.push_back(std::move(line));
  }
  return report;
}

}  // namespace overproof
