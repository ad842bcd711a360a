#include "quantize/export_stage.h"

#include <fmt/format.h>

#include "core/json.h"
#include "formats/gguf_names.h"
#include "quantize/gguf_run.h"

namespace overproof {
namespace {

/// The value of option "type".
std::string type_name(GgmlType type) {
  ExportConfig config;
  config.type = type;
  Options options = options_of(config);
  return find_option(options, "type", "export").text();
}

}  // namespace

StageReport run_export(const ExportConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Checkpoint model = open_checkpoint(inputs.path("model"));
  const auto run = plan_gguf_run(
      model, [&](const std::string&, const GgufTensorInfo&) { return config.type; }, nullptr, config.name);
  const EngineResult made = run->write(outputs, {.block_bytes = config.block_bytes, .label = "export"});

  int64_t bytes = 0;
  for (const FileRecord& record : outputs.folder().records()) bytes += record.bytes;
  const std::string arch(find_model_kind((*model.config)["model_type"].get<std::string>())->arch);
  const std::string type = type_name(config.type);
  const GgufPlan& plan = run->gguf;
  StageReport report;
  report.metrics() = {{"architecture", arch},
                      {"type", type},
                      {"tensors", plan.outputs.size()},
                      {"skipped", plan.skipped.size()},
                      {"values", plan.values},
                      {"bytes_out", bytes},
                      {"notes", run->notes}};
  report.summary.push_back(
      fmt::format("{} for llama.cpp's architecture '{}': {} tensors, {:.1f} million values, {:.1f} MB, matrices in {}", kGgufName,
                  arch, plan.outputs.size(), double(plan.values) * 1e-6, double(bytes) * 1e-6, type));
  if (made.resumed_items > 0)
    report.summary.push_back(fmt::format("resumed after {} tensors of an earlier run", made.resumed_items));
  for (const std::string& name : plan.skipped)
    report.summary.push_back(fmt::format("not written, because the model does not use it: {}", name));
  for (const std::string& note : run->notes) report.summary.push_back("note: " + note);
  return report;
}

}  // namespace overproof
