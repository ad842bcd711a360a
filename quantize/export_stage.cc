#include "quantize/export_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "core/json.h"
#include "core/progress.h"
#include "data/gguf_vocabulary.h"
#include "formats/gguf_names.h"
#include "formats/gguf_plan.h"

namespace overproof {

StageReport run_export(const ExportConfig& config, const Inputs& inputs, Outputs& outputs) {
  static const std::map<std::string, GgmlType> kTypes = {
      {"f16", GgmlType::f16}, {"bf16", GgmlType::bf16}, {"f32", GgmlType::f32}};
  const Checkpoint model = open_checkpoint(inputs.path("model"));
  const GgmlType type = kTypes.at(config.type);
  GgufPlan plan = plan_gguf(model, [&](const std::string&, const GgufTensorInfo&) { return type; });
  if (!config.name.empty()) plan.metadata.add_text("general.name", config.name);
  const int64_t vocabulary = model.tensors->find("model.embed_tokens.weight")->shape[0];
  std::vector<std::string> notes = plan.notes;
  std::ranges::move(add_gguf_vocabulary(model.path, vocabulary, plan.metadata), std::back_inserter(notes));

  Progress progress("export", plan.values, "weights");
  int64_t done = 0;
  write_gguf(
      *model.tensors, plan, {}, outputs.folder(), kGgufName, [&](int64_t values) { progress.update(done += values); },
      config.block_bytes);

  int64_t bytes = 0;
  for (const FileRecord& record : outputs.folder().records()) bytes += record.bytes;
  const std::string arch(find_family((*model.config)["model_type"].get<std::string>())->arch);
  StageReport report;
  report.metrics() = {{"architecture", arch},
                      {"type", config.type},
                      {"tensors", plan.outputs.size()},
                      {"skipped", plan.skipped.size()},
                      {"values", plan.values},
                      {"bytes_out", bytes},
                      {"notes", notes}};
  report.summary.push_back(
      fmt::format("{} of llama.cpp's architecture '{}': {} tensors, {:.1f} million values, {:.1f} MB, matrices in {}", kGgufName,
                  arch, plan.outputs.size(), double(plan.values) * 1e-6, double(bytes) * 1e-6, config.type));
  for (const std::string& name : plan.skipped)
    report.summary.push_back(fmt::format("left out, because the model does not use it: {}", name));
  for (const std::string& note : notes) report.summary.push_back("note: " + note);
  return report;
}

}  // namespace overproof
