#include "pipeline/forecast.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/processor.h"
#include "data/tokenizer.h"
#include "core/printable.h"
#include "formats/architecture.h"
#include "formats/gguf_config.h"
#include "formats/gguf_kind.h"
#include "formats/gguf_names.h"
#include "formats/model_check.h"
#include "formats/model_config.h"
#include "formats/student_profile.h"
#include "formats/tensor_source.h"
#include "provenance/artifact.h"
#include "records/soft_targets.h"
#include "remote/capture_samples_stage.h"
#include "remote/capture_stage.h"

namespace overproof {
namespace {

ModelConfig shape_of(const fs::path& path) {
  const Checkpoint checkpoint = open_checkpoint(path);
  return ModelConfig::from_json(*checkpoint.config, fs::is_directory(path) ? path / "config.json" : path);
}

/// Why it cannot be exported as GGUF, by its architecture and config.json; "" where it can.
std::string why_not_gguf(const fs::path& path) {
  try {
    const Checkpoint checkpoint = open_checkpoint(path);
    const ModelKind* kind = gguf_kind(*checkpoint.config, *checkpoint.tensors);
    if (!kind)
      return fmt::format("GGUF: models of the type {} are not written; {} are", printable(Architecture(*checkpoint.config).model_type()), list_model_kinds(false));
    for (const TensorEntry& entry : layer_tensors())
      if (kind->is(entry.kinds) && entry.hf.ends_with(".bias") && entry.gguf.empty() && use_of(*kind, entry.hf, *checkpoint.config) == TensorUse::needed)
        return fmt::format("it cannot be written as GGUF: llama.cpp has no place for {}", entry.hf);
    GgufMetadata metadata;
    add_architecture_keys(*checkpoint.config, fs::is_directory(path) ? path / "config.json" : path, *kind, 1, 0, metadata);
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& e) {
    return fmt::format("it cannot be written as GGUF: {}", e.what());
  }
  return {};
}

/// Stages that run the models in these slots.
bool computes(const StageSpec& spec, StageInstance& instance) {
  return needs_of(spec, instance) == Needs::torch && spec.name != "tiny-teacher";
}

template <class T>
T value_of(const Options& options, std::string_view name, T fallback) {
  for (const Option& o : options)
    if (o.name == name)
      if (const auto* member = std::get_if<T*>(&o.value)) return **member;
  return fallback;
}

/// A product of a model's weights with a token, and what the machine does of them in a second: measured on two cores with AVX-512, and
/// within a factor of three of that elsewhere.
constexpr double kOperationsPerWeight = 2, kOperationsPerThread = 4e10, kDiskBytesPerSecond = 3e8;

double seconds_for(double weights, double tokens, double passes) {
  return kOperationsPerWeight * weights * tokens * passes / (kOperationsPerThread * double(std::max<int64_t>(1, thread_count())));
}

int64_t bytes_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return int64_t(fs::file_size(path, error));
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path, error))
    if (entry.is_regular_file(error)) bytes += int64_t(entry.file_size(error));
  return bytes;
}

std::string duration(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", std::max(1.0, seconds));
  if (seconds < 90 * 60) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("{:.0f} h", seconds / 3600);
  return fmt::format("{:.0f} days", seconds / 86400);
}

std::string size(double bytes) {
  return bytes < 1e9 ? fmt::format("{:.0f} MB", std::max(1.0, bytes * 1e-6)) : fmt::format("{:.1f} GB", bytes * 1e-9);
}

/// The inputs that are artifacts, by what their statements claim, and those from outside without a root.
std::map<std::string, InputArtifact> bound_inputs(const KnownModels& inputs) {
  std::map<std::string, InputArtifact> bound;
  for (const auto& [slot, path] : inputs) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const ArtifactCheck check = check_artifact(path, VerifyFiles::size, nullptr);
    if (check.lineage) bound[slot] = {path, check.lineage->root};
    else bound[slot] = {path, {}};
  }
  return bound;
}

/// The requests of a capture: exact where teacher and corpus are there, else of the windows that the options ask for.
Forecast capture_forecast(const Options& options, const KnownModels& inputs, int64_t window_length, const fs::path& out) {
  constexpr double kProgram = 1e8, kBytesPerToken = 250;  // ledger, spool and targets of 20 ids
  CaptureConfig config;
  config.tokens = value_of<int64_t>(options, "tokens", config.tokens);
  config.seed = value_of<int64_t>(options, "seed", config.seed);
  config.order_beacon = value_of<std::string>(options, "order-beacon", "");
  Forecast f{kProgram, double(config.tokens) * kBytesPerToken, 0};
  const auto bound = bound_inputs(inputs);
  if (bound.contains("teacher") && bound.contains("corpus")) {
    const CaptureCount count = count_capture(config, Inputs(bound), out.empty() ? out : out.parent_path() / kKeptFolder);
    f.requests = count.open_requests, f.paid_tokens = count.open_tokens;
  } else {
    f.requests = std::max<int64_t>(config.tokens / window_length, 1), f.paid_tokens = f.requests * (window_length + 2);
  }
  return f;
}

Forecast capture_samples_forecast(const Options& options, const KnownModels& inputs, const fs::path& out) {
  constexpr double kProgram = 1e8, kBytesPerToken = 10;  // ledger and records
  CaptureSamplesConfig config;
  Options own = options_of(config);
  from_json(own, to_json(options), "options");
  Forecast f{kProgram, 0, 0};
  const auto bound = bound_inputs(inputs);
  if (!bound.contains("teacher") || (!bound.contains("prompts") && !bound.contains("corpus"))) return f;
  const CaptureCount count = count_capture_samples(config, Inputs(bound), out.empty() ? out : out.parent_path() / kKeptFolder);
  f.requests = count.open_requests, f.paid_tokens = count.open_tokens;
  f.disk_bytes = double(count.tokens) * kBytesPerToken;
  return f;
}

constexpr double kFloat = 4;

/// Whether distill trains a tensor, by its name in a checkpoint and the option `train` (distill/trainer.h: trained_group).
bool is_trained(const std::string& name, const StringList& train) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string::npos; };
  const char* group = has("correction_bias") ? ""
                      : has("mlp.gate.")     ? "router"
                      : has("norm")          ? "norms"
                      : has("self_attn")     ? "attention"
                      : has("embed_tokens")  ? "embeddings"
                      : has("lm_head")       ? "head"
                                             : "ffn";
  return *group != 0 && std::ranges::any_of(train, [&](const std::string& word) {
    return word == "all" || word == group || (word == "experts" && std::string_view(group) == "ffn");
  });
}

/// Peak memory of distill, from what it keeps: weights in f32, for each trained one a gradient and two moments, what the layers of a
/// micro-batch save for the backward pass, and the logits of a chunk. The program with libtorch, and how much is allocated beyond that,
/// are measured.
double training_memory(const fs::path& student, const std::vector<fs::path>& teachers, const Options& options, int64_t window_length) {
  constexpr double kProgram = 1.5e8, kBeyond = 0.1, kLogitRows = 256, kLogitCopies = 3;
  const Checkpoint checkpoint = open_checkpoint(student);
  const ModelConfig c = ModelConfig::from_json(*checkpoint.config, student / "config.json");
  const auto count = [&](const char* name) { return double(value_of<int64_t>(options, name, 0)); };
  const StringList train = value_of<StringList>(options, "train", {}), targets = value_of<StringList>(options, "lora-targets", {});
  const double rank = count("lora-rank");
  double weights = 0, trained = 0;
  for (const TensorInfo& t : checkpoint.tensors->tensors()) {
    weights += double(t.elements());
    if (rank == 0) {
      if (is_trained(t.name, train)) trained += double(t.elements());
      continue;
    }
    const bool can = t.shape.size() == 2 && (!c.is_moe() || t.name.find("self_attn") != std::string::npos);
    for (const std::string& target : targets)
      if (can && t.name.ends_with(fmt::format(".{}_proj.weight", target))) trained += rank * double(t.shape[0] + t.shape[1]);
  }
  double of_teacher = 0;
  for (const fs::path& teacher : teachers) {
    const Checkpoint alongside = open_checkpoint(teacher);
    for (const TensorInfo& t : alongside.tensors->tensors()) of_teacher += double(t.elements());
  }
  const double copies = value_of<double>(options, "ema", 0.0) > 0 ? 4 : 3;
  const double tokens = std::min(count("micro-batch"), count("batch-size")) * double(window_length);
  const double hidden = double(c.hidden_size), q = double(c.heads * c.head_dim), kv = double(c.kv_heads * c.head_dim);
  const double ff = c.is_moe() ? double(c.shared_width() + c.top_k * c.moe_intermediate_size) : double(c.intermediate_size);
  const double saved = 5 * hidden + 2 * q + 3 * kv + (rank > 0 ? 5 : 2) * ff;  // a token and layer
  const double logits = kLogitCopies * std::min(tokens, kLogitRows) * double(c.vocab_size);
  // Experts have numbers of rows between none and about twice the mean, rounded up to 32; six products each.
  constexpr double kCompiled = 2e6;  // bytes of code that oneDNN keeps for a shape
  const double sizes = c.is_moe() && has_avx512_of_another_maker() ? std::ceil(2 * tokens * double(c.top_k) / double(c.n_routed_experts) / 32) : 0;
  return kProgram + 6 * sizes * kCompiled + kFloat * ((1 + kBeyond) * weights + copies * trained + of_teacher + tokens * double(c.layers) * saved + logits);
}

/// Of the model that `pretrain` makes, with the tokenizer's vocabulary; 0 where there is no tokenizer yet.
double pretrained_parameters(const Options& options, const KnownModels& models) {
  const auto tokenizer = models.find("tokenizer");
  if (tokenizer == models.end() || !fs::exists(tokenizer->second)) return 0;
  const auto number = [&](const char* name) { return value_of<int64_t>(options, name, 1); };
  ModelConfig c;
  c.model_type = "llama";
  c.vocab_size = open_tokenizer(tokenizer->second)->vocab_size();
  c.hidden_size = number("hidden-size");
  c.intermediate_size = number("intermediate-size");
  c.layers = number("layers");
  c.heads = number("heads");
  c.kv_heads = number("kv-heads");
  c.head_dim = c.hidden_size / c.heads;
  c.tie_embeddings = !value_of<bool>(options, "untied", false);
  return double(c.parameters());
}

}  // namespace

void check_options(const StageSpec& spec, StageInstance& instance, const std::set<std::string>& bound) {
  const std::string& stage = spec.name;
  const Options options = instance.options();
  const auto number = [&](const char* name) { return value_of<int64_t>(options, name, 0); };
  const auto is_on = [&](const char* name) { return value_of(options, name, false); };
  const auto given = [&](const char* name) { return value_of(options, name, 0.0) > 0; };
  if (stage == "quantize" && !bound.contains("activations")) {
    const bool is_static = value_of(options, "scheme", std::string()) == "w8a8-static";
    if (is_static || is_on("smooth") || is_on("gptq"))
      throw UsageError(fmt::format("quantize: {} --activations, the artifact that `overproof activations` makes of the model",
                                   is_static ? "scheme 'w8a8-static' needs" : "smooth and gptq need"));
  }
  if (stage == "quantize" && (is_on("evaluate") || given("max-kl") || given("kl-budget")) && !bound.contains("corpus") && !bound.contains("text"))
    throw UsageError("quantize: evaluate, max-kl and kl-budget measure on held-out text: give --corpus or --text");
  if (stage == "carve" && number("top-k") > number("experts"))
    throw UsageError(fmt::format("carve: top-k {} is more than the {} routed experts", number("top-k"), number("experts")));
  if (stage == "upcycle" && number("top-k") > number("copies") * number("split"))
    throw UsageError(fmt::format("upcycle: top-k {} is more than the {} experts", number("top-k"), number("copies") * number("split")));
  const auto teaches = [](const std::string& slot) { return slot != "student" && slot != "corpus"; };
  if (stage == "distill" && std::ranges::none_of(bound, teaches))
    throw UsageError("distill: there is nothing to learn from; give soft targets with --targets, or a model that runs alongside with --teacher");
  if (stage == "calibrate" && given("target-kl") && given("target-speed"))
    throw UsageError("calibrate: options 'target-kl' and 'target-speed' both choose the number of experts; give one");
}

void check_prerequisites(const StageSpec& spec, StageInstance& instance, const KnownModels& models, const std::set<std::string>& bound) {
  const Options options = instance.options();
  check_options(spec, instance, bound);
  for (const auto& [slot, path] : models) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    if (slot == "tokenizer") {
      open_tokenizer(path);
      continue;
    }
    if (!computes(spec, instance) || (slot != "teacher" && slot != "student" && slot != "model")) continue;
    const ModelConfig shape = shape_of(path);
    const bool dense = (spec.name == "carve" || spec.name == "upcycle" || spec.name == "shrink") && slot == "teacher";
    if (dense && shape.is_moe())
      throw MismatchError(
          fmt::format("{}: is a mixture of experts; {} needs a teacher with dense FFNs", path.filename().string(), spec.name));
    const auto refuse = [name = path.filename().string()](const std::string& cause) {
      if (!cause.empty()) throw MismatchError(fmt::format("{}: {}", name, cause));
    };
    if (spec.name == "upcycle" && slot == "teacher") refuse(why_not_upcycled(shape));
    if (spec.name == "carve" && slot == "teacher") {
      refuse(shape.why_not_carved());
      const int64_t experts = value_of<int64_t>(options, "experts", 0), shared = value_of<int64_t>(options, "shared", 0);
      if (shape.intermediate_size % (experts + shared) != 0)
        throw UsageError(fmt::format("experts + shared = {} + {} does not divide the teacher's FFN width {}", experts, shared, shape.intermediate_size));
    }
    const bool changes = spec.name == "distill" || spec.name == "calibrate" || spec.name == "recover";
    if ((changes && slot == "student") || (spec.name == "recover" && slot == "teacher") || (spec.name == "shrink" && slot == "teacher"))
      refuse(shape.why_not_trained());
  }
}

std::vector<std::string> ModelLimits::sentences() const {
  std::vector<std::string> list;
  for (const std::string& cause : {run, carve, upcycle, train, gguf})
    if (!cause.empty() && std::ranges::find(list, cause) == list.end()) list.push_back(cause);
  return list;
}

Json ModelLimits::json() const {
  const auto of = [](const std::string& cause) { return cause.empty() ? Json() : Json(cause); };
  return {{"run", of(run)}, {"train", of(train)}, {"carve", of(carve)}, {"upcycle", of(upcycle)}, {"gguf", of(gguf)}};
}

ModelLimits limits_of(const fs::path& checkpoint) {
  ModelLimits limits;
  try {
    const ModelConfig shape = shape_of(checkpoint);
    limits.train = shape.why_not_trained();
    limits.carve = shape.why_not_carved();
    limits.upcycle = why_not_upcycled(shape);
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& e) {
    limits.run = limits.train = limits.carve = limits.upcycle = fmt::format("it cannot teach, be measured or be carved here, only be quantized and exported: {}", e.what());
  }
  limits.gguf = why_not_gguf(checkpoint);
  return limits;
}

Json Forecast::json() const {
  Json json = {{"memory_bytes", int64_t(memory_bytes)}, {"disk_bytes", int64_t(disk_bytes)}, {"seconds", int64_t(seconds + 0.5)}};
  if (requests > 0) json["requests"] = requests, json["paid_tokens"] = paid_tokens;
  return json;
}

std::string Forecast::text() const {
  std::vector<std::string> parts;
  if (memory_bytes > 0) parts.push_back(size(memory_bytes) + " of memory");
  if (disk_bytes > 0) parts.push_back(size(disk_bytes) + " of disk");
  if (seconds > 0) parts.push_back(duration(seconds));
  std::string text = parts.empty() ? "" : fmt::format("about {}", fmt::join(parts, ", "));
  if (requests > 0) text += fmt::format("{}{} requests and {} tokens to pay", text.empty() ? "" : "; ", requests, paid_tokens);
  return text;
}

Forecast forecast(const StageSpec& spec, StageInstance& instance, const KnownModels& models, int64_t window_length,
                  int64_t targets_tokens, const fs::path& out) {
  const Options options = instance.options();
  if (spec.name == "capture-samples") return capture_samples_forecast(options, models, out);
  if (spec.name == "capture") return capture_forecast(options, models, window_length, out);
  const auto number = [&](const char* name, int64_t fallback) { return double(value_of<int64_t>(options, name, fallback)); };
  double weights = 0, width = 0, layers = 1, features = 0, file = 0, in_16_bits = 0;
  int models_there = 0;
  for (const auto& [slot, path] : models) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    ++models_there;
    if (file == 0) file = double(bytes_of(path));
    try {
      if (slot == "source" || slot == "tokenizer" || weights > 0) continue;
      const Checkpoint checkpoint = open_checkpoint(path);
      for (const TensorInfo& t : checkpoint.tensors->tensors()) weights += double(t.elements());
      in_16_bits = 2 * weights;
      const ModelConfig shape = ModelConfig::from_json(*checkpoint.config, path / "config.json");
      width = double(shape.hidden_size), layers = double(shape.layers);
      features = shape.is_moe() ? double(shape.n_routed_experts * shape.moe_intermediate_size + shape.shared_width()) : double(shape.intermediate_size);
    } catch (const Interrupted&) {
      throw;
    } catch (const Error&) {  // reported by check_prerequisites where it matters
    }
  }
  constexpr double kProgram = 1e8, kRowBytes = 160, kTrainingBytesPerWeight = 16, kTrainingPasses = 3;
  const double tokens = number("tokens", 0), steps = number("steps", 0);
  const bool one_pass = spec.name == "distill" && steps == 0;
  const double trained = one_pass ? double(targets_tokens) : steps * number("batch-size", 1) * double(window_length);
  Forecast f{kProgram, 0, 0};
  if (models_there == 0) return {};
  if (spec.name == "import") return {kProgram, file, 2 * file / kDiskBytesPerSecond};
  if (spec.name == "corpus") {
    const auto source = models.find("source");
    const double bytes = source == models.end() ? 0 : double(bytes_of(source->second));
    return {2 * kProgram, 2 * bytes, bytes / 3e6};
  }
  if (spec.name == "merge-targets") {
    double bytes = 0;
    for (const auto& [slot, path] : models)
      if (slot != "teacher" && slot != "corpus") bytes += double(bytes_of(path));
    return {kProgram, bytes, 2 * bytes / kDiskBytesPerSecond};
  }
  if (spec.name == "quantize" && !computes(spec, instance)) return {2 * kProgram, 1.1 * weights, (file + weights) / kDiskBytesPerSecond};
  if (spec.name == "export") return {2 * kProgram, in_16_bits, (file + in_16_bits) / kDiskBytesPerSecond};
  if (spec.name == "pretrain") weights = pretrained_parameters(options, models);
  if (weights == 0) return {};
  // What takes all tokens through one layer after another: docs/student.md.
  const double layer = kFloat * weights / layers, stream = kFloat * tokens * width;
  f.memory_bytes += kFloat * weights;
  if (spec.name == "teach" || spec.name == "teach-shard") f.disk_bytes = tokens * kRowBytes, f.seconds = seconds_for(weights, tokens, 1);
  else if (spec.name == "observe")
    f.disk_bytes = 2 * tokens * width * layers, f.memory_bytes = kProgram + 2 * layer + 2.5 * stream, f.seconds = seconds_for(weights, tokens, 1);
  else if (spec.name == "sample") f.seconds = seconds_for(weights, number("count", 0) * number("max-tokens", 0), 4);
  else if (spec.name == "activations") f.memory_bytes = kProgram + layer + 2 * stream, f.seconds = seconds_for(weights, tokens, 1.5), f.disk_bytes = kProgram;
  else if (spec.name == "evaluate") f.memory_bytes += kFloat * weights, f.seconds = seconds_for(weights, tokens, double(models_there));
  else if (spec.name == "arena") f.disk_bytes = 0;  // how many prompts there are is in a file
  else if (spec.name == "carve")
    f.memory_bytes = kProgram + double(1 + thread_count()) * layer, f.disk_bytes = in_16_bits, f.seconds = seconds_for(weights, 4096, 2);
  else if (spec.name == "upcycle") {
    const double times = number("copies", 1);  // of the FFNs, most of the weights
    f.memory_bytes += kFloat * times * weights, f.disk_bytes = times * in_16_bits, f.seconds = times * weights / 1e8;
  } else if (spec.name == "shrink") f.memory_bytes *= 2, f.disk_bytes = in_16_bits, f.seconds = seconds_for(weights, tokens, 1);
  else if (spec.name == "recover")
    f.memory_bytes = kProgram + 2 * layer + 2 * stream + 24 * features * features, f.disk_bytes = in_16_bits, f.seconds = seconds_for(weights, tokens, 3);
  else if (spec.name == "distill" || spec.name == "calibrate" || spec.name == "pretrain") {
    std::vector<fs::path> teachers;
    for (const auto& [slot, path] : models)
      if (slot == "teacher" || (!spec.find_slot(slot) && fs::exists(path) && !fs::exists(soft_targets_file(path)))) teachers.push_back(path);
    const auto alongside = double(teachers.size());
    f.memory_bytes = kProgram + (kTrainingBytesPerWeight + kFloat * alongside) * weights;
    f.disk_bytes = in_16_bits + 3 * kFloat * weights;  // and the state that a killed training resumes from
    f.seconds = seconds_for(weights, trained, kTrainingPasses + alongside);
    if (const auto student = models.find("student"); spec.name == "distill" && student != models.end() && fs::exists(student->second))
      f.memory_bytes = training_memory(student->second, teachers, options, window_length);
  } else if (spec.name == "quantize") {
    f.memory_bytes *= 2, f.disk_bytes = 1.1 * weights, f.seconds = seconds_for(weights, 2 * number("evaluate-tokens", 0), 1);
  } else {  // prune-neurons, prune-weights, prune-experts, prune-source: row by row, or one weight at a time
    f.memory_bytes = kProgram + layer;
    f.disk_bytes = in_16_bits, f.seconds = (file + in_16_bits) / kDiskBytesPerSecond;
  }
  return f;
}

}  // namespace overproof
