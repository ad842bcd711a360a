#include "evaluate/activations_stage.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "core/progress.h"
#include "model/host_values.h"
#include "student/layer_pass.h"

namespace overproof {
StageReport run_activations(const ActivationsConfig& config, const Inputs& inputs, Outputs& outputs) {
  prepare_torch();
  at::NoGradGuard no_grad;
  const Corpus corpus(inputs.path("corpus"));
  LayerStream model = open_stream_for(corpus, inputs, "model");
  const SampledWindows sampled = sample_windows(corpus, inputs.root("corpus"), config.seed, config.tokens);
  const at::Tensor& ids = sampled.ids;
  const int64_t windows = ids.size(0), tokens = ids.numel(), layers = model.config().layers;

  const int64_t hidden = model.config().hidden_size;
  ActivationJournal journal(outputs.scratch(), outputs.stage_key(), {layers, tokens, hidden});
  const int64_t resumed = journal.progress().layers_done;
  at::Tensor stream;
  if (resumed > 0) {
    stream = at::empty({tokens, hidden}, at::kFloat);
    journal.read_stream(mutable_host_values<float>(stream));
  } else {
    stream = model.embed(ids);
  }
  {
    Progress progress("activations", tokens * layers, "tokens", tokens * resumed);
    LayerPass pass(model, {config.batch_size, config.min_tokens, {config.samples, config.hessians}}, sampled, std::move(stream), progress, &journal, {});
    while (pass.layers_done() < layers) pass.step();
  }
  const LayerProgress e = journal.progress();
  const int64_t groups = journal.groups();
  journal.finish(outputs.folder(), {{"model_root", inputs.root("model").hex()},
                                    {"corpus_root", inputs.root("corpus").hex()},
                                    {"tokens", std::to_string(tokens)}});

  StageReport report;
  report.metrics() = {{"tokens", tokens}, {"windows", windows}, {"layers", layers}, {"groups", groups}};
  report.summary = {fmt::format("{} tokens through {} layers, {} inputs recorded{}", tokens, layers, groups,
                                config.hessians ? " with Hessians" : "")};
  if (resumed > 0) report.summary.push_back(fmt::format("resumed after {} layers", resumed));
  if (e.experts > 0) {
    report.metrics()["experts"] = {
        {"total", e.experts}, {"topped_up", e.topped_up}, {"below_min_tokens", e.below}, {"forced_tokens", e.forced_tokens}};
    report.summary.push_back(fmt::format("{} experts: {} were topped up to {} tokens ({} tokens by force), {} stayed below",
                                         e.experts, e.topped_up, config.min_tokens, e.forced_tokens, e.below));
  }
  return report;
}

}  // namespace overproof
