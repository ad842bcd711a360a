#include "evaluate/evaluate_stage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "model/decoder.h"

namespace overproof {
namespace {

/// f32 logits at a time: 32 MiB, whatever the vocabulary.
constexpr int64_t kLogitsPerChunk = int64_t{8} << 20;

struct HeldOut {
  std::vector<at::Tensor> batches;  ///< I64 [<= batch, window_length]
  at::Tensor labels;                ///< I64 [tokens]
  int64_t windows = 0;
  int64_t tokens() const { return labels.numel(); }
};

HeldOut held_out_windows(const Corpus& corpus, const EvaluateConfig& config) {
  const int64_t length = corpus.window_length(), available = corpus.windows(Split::held_out);
  if (available < 1) throw UsageError(fmt::format("the corpus has no held-out window of {} tokens", length));
  HeldOut result;
  result.windows = std::min(available, (config.tokens + length - 1) / length);
  std::vector<int64_t> ids(size_t(length) + 1);
  std::vector<at::Tensor> labels, batch;
  for (int64_t w = 0; w < result.windows; ++w) {
    // The middle of each of `windows` equal parts of the stream.
    const int64_t window = int64_t((__int128(2 * w + 1) * available) / (2 * result.windows));
    corpus.read_window(Split::held_out, window, ids);
    const at::Tensor row = at::from_blob(ids.data(), {length + 1}, at::kLong).clone();
    batch.push_back(row.narrow(0, 0, length));
    labels.push_back(row.narrow(0, 1, length));
    if (int64_t(batch.size()) == config.batch || w + 1 == result.windows) {
      result.batches.push_back(at::stack(batch));
      batch.clear();
    }
  }
  result.labels = at::cat(labels);
  return result;
}

struct Row {
  std::string name;
  double perplexity = 0, kl_mean = 0, kl_p99 = 0, top1 = 0, tokens_per_second = 0;
  int64_t bytes = 0, parameters = 0, active_parameters = 0;
  double ffn_activation = 1, parameter_activation = 1;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Final hidden states of all tokens, [tokens, hidden], and the seconds it took.
struct States {
  at::Tensor hidden;
  double seconds = 0;
};
States final_states(const Decoder& model, const HeldOut& held_out, Progress& progress, std::string_view name, int64_t& done) {
  std::vector<at::Tensor> parts;
  model.hidden(held_out.batches[0].narrow(0, 0, 1));  // touches every weight once, so that speed is not that of page faults
  const Clock::time_point start = Clock::now();
  for (const at::Tensor& batch : held_out.batches) {
    throw_if_interrupted();
    parts.push_back(model.hidden(batch));
    progress.update(done += batch.numel(), name);
  }
  const double seconds = seconds_since(start);
  return {at::cat(parts), seconds};
}

/// Nearest-rank percentile of `values`, which are reordered.
double percentile(std::vector<double>& values, double p) {
  const size_t rank = size_t(std::max(1.0, std::ceil(p * double(values.size()))));
  std::nth_element(values.begin(), values.begin() + (rank - 1), values.end());
  return values[rank - 1];
}

/// Fills perplexity, divergence and agreement from both models' hidden states, chunk of tokens by chunk. The teacher's
/// logits are made again for each model: a vocabulary times tokens of them is more than any machine wants to keep.
void compare(const Decoder& teacher, const at::Tensor& teacher_hidden, const Decoder& model, const at::Tensor& hidden,
             const at::Tensor& labels, Row& row, double& head_seconds) {
  const int64_t tokens = labels.numel(), chunk = std::max<int64_t>(1, kLogitsPerChunk / model.config().vocab_size);
  double nll = 0, kl_sum = 0;
  int64_t agree = 0;
  std::vector<double> kl;
  kl.reserve(size_t(tokens));
  for (int64_t begin = 0; begin < tokens; begin += chunk) {
    throw_if_interrupted();
    const int64_t count = std::min(chunk, tokens - begin);
    const Clock::time_point start = Clock::now();
    const at::Tensor logits = model.logits(hidden.narrow(0, begin, count));
    head_seconds += seconds_since(start);
    const at::Tensor log_q = at::log_softmax(logits, -1);
    const at::Tensor log_p = at::log_softmax(teacher.logits(teacher_hidden.narrow(0, begin, count)), -1);
    nll -= log_q.gather(1, labels.narrow(0, begin, count).unsqueeze(1)).sum(at::kDouble).item<double>();
    agree += log_q.argmax(-1).eq(log_p.argmax(-1)).sum().item<int64_t>();
    // sum_v p (log p - log q); exp in place of a softmax of its own.
    const at::Tensor divergence = log_p.exp().mul_(log_p - log_q).sum(-1, false, at::kDouble);
    const double* values = divergence.const_data_ptr<double>();
    for (int64_t i = 0; i < count; ++i) {
      kl_sum += values[i];
      kl.push_back(values[i]);
    }
  }
  row.perplexity = std::exp(nll / double(tokens));
  row.kl_mean = kl_sum / double(tokens);
  row.kl_p99 = percentile(kl, 0.99);
  row.top1 = double(agree) / double(tokens);
}

/// Bytes of the weight files of a checkpoint (safetensors or GGUF).
int64_t weight_bytes(const fs::path& checkpoint) {
  if (!fs::is_directory(checkpoint)) return int64_t(fs::file_size(checkpoint));
  int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".safetensors" || extension == ".gguf") bytes += int64_t(entry.file_size());
  }
  return bytes;
}

Row measure(const std::string& name, const fs::path& path, const Decoder& teacher, const at::Tensor& teacher_hidden,
            const Decoder& model, const States& states, const HeldOut& held_out) {
  Row row;
  row.name = name;
  double seconds = states.seconds;
  compare(teacher, teacher_hidden, model, states.hidden, held_out.labels, row, seconds);
  row.tokens_per_second = double(held_out.tokens()) / seconds;
  row.bytes = weight_bytes(path);
  row.parameters = model.config().parameters();
  row.active_parameters = model.config().active_parameters();
  row.ffn_activation = model.config().ffn_activation();
  row.parameter_activation = double(row.active_parameters) / double(row.parameters);
  return row;
}

Json to_json(const Row& row) {
  return {{"name", row.name},
          {"perplexity", row.perplexity},
          {"kl_mean", row.kl_mean},
          {"kl_p99", row.kl_p99},
          {"top1_agreement", row.top1},
          {"bytes", row.bytes},
          {"parameters", row.parameters},
          {"active_parameters", row.active_parameters},
          {"ffn_activation", row.ffn_activation},
          {"parameter_activation", row.parameter_activation}};
}

std::vector<std::string> table(const std::vector<Row>& rows, const HeldOut& held_out) {
  size_t width = 5;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  std::vector<std::string> lines;
  lines.push_back(fmt::format("{} held-out tokens in {} windows; KL(teacher || model) in nats a token", held_out.tokens(),
                              held_out.windows));
  lines.push_back(fmt::format("{:<{}}  {:>10}  {:>8}  {:>8}  {:>6}  {:>8}  {:>8}  {:>9}  {:>10}  {:>8}", "model", width, "perplexity",
                              "KL", "KL p99", "top-1", "FFN act.", "all act.", "params", "size", "tokens/s"));
  for (const Row& row : rows)
    lines.push_back(fmt::format("{:<{}}  {:>10.3f}  {:>8.4f}  {:>8.3f}  {:>5.1f}%  {:>7.1f}%  {:>7.1f}%  {:>7.2f} M  {:>7.1f} MB  {:>8.0f}",
                                row.name, width, row.perplexity, row.kl_mean, row.kl_p99, 100 * row.top1, 100 * row.ffn_activation,
                                100 * row.parameter_activation, double(row.parameters) * 1e-6, double(row.bytes) * 1e-6,
                                row.tokens_per_second));
  return lines;
}

}  // namespace

StageReport run_evaluate(const EvaluateConfig& config, const Inputs& inputs, Outputs& outputs) {
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  if (open_tokenizer(inputs.path("teacher"))->probe() != corpus.tokenizer_probe())
    throw UsageError("the corpus was cut with another tokenizer than the teacher's; build it again with this teacher");
  const HeldOut held_out = held_out_windows(corpus, config);

  int64_t models = 1;
  for (const auto& [slot, artifact] : inputs.all()) models += slot != "teacher" && slot != "corpus";
  Progress progress("evaluate", models * held_out.tokens(), "tokens");
  int64_t done = 0;

  const Decoder teacher(open_checkpoint(inputs.path("teacher")));
  const States teacher_states = final_states(teacher, held_out, progress, "teacher", done);
  const at::Tensor& teacher_hidden = teacher_states.hidden;
  std::vector<Row> rows;
  for (const auto& [slot, artifact] : inputs.all()) {
    if (slot == "teacher" || slot == "corpus") continue;
    const Decoder model(open_checkpoint(artifact.path));  // one at a time: it is gone before the next is opened
    if (model.config().vocab_size != teacher.config().vocab_size)
      throw UsageError(fmt::format("model '{}' has a vocabulary of {} tokens, the teacher {}", slot, model.config().vocab_size,
                                   teacher.config().vocab_size));
    const States states = final_states(model, held_out, progress, slot, done);
    rows.push_back(measure(slot, artifact.path, teacher, teacher_hidden, model, states, held_out));
  }
  std::ranges::stable_sort(rows, {}, &Row::kl_mean);
  rows.insert(rows.begin(), measure("teacher", inputs.path("teacher"), teacher, teacher_hidden, teacher, teacher_states, held_out));

  Json list = Json::array();
  for (const Row& row : rows) list.push_back(to_json(row));
  const Json evaluation = {{"tokens", held_out.tokens()}, {"windows", held_out.windows}, {"models", list}};
  outputs.folder().write_file("evaluation.json", evaluation.dump(1) + "\n");

  StageReport report;
  report.metrics() = evaluation;
  report.summary = table(rows, held_out);
  return report;
}

}  // namespace overproof
