#include "quantize/gguf_run.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "core/json.h"
#include "data/gguf_vocabulary.h"
#include "data/tokenizer_files.h"
#include "formats/generation_config.h"
#include "formats/model_check.h"

namespace overproof {
namespace {

DType dtype_of(GgmlType type) { return type == GgmlType::f16 ? DType::f16 : type == GgmlType::bf16 ? DType::bf16 : DType::f32; }

}  // namespace

std::unique_ptr<GgufRun> plan_gguf_run(const Checkpoint& model, const GgufChoice& choice, std::unique_ptr<Scheme> blocks,
                                       std::string_view name) {
  auto run = std::make_unique<GgufRun>();
  run->notes = check_model(model);
  refuse_damaged_tokenizer(model.path);
  run->gguf = plan_gguf(model, choice);
  std::ranges::copy(run->gguf.notes, std::back_inserter(run->notes));
  if (!name.empty()) run->gguf.metadata.add_text("general.name", name);
  add_gguf_sampling(model.path, run->gguf.metadata);
  std::ranges::move(
      add_gguf_vocabulary(model.path, model.tensors->find("model.embed_tokens.weight")->shape[0], run->gguf.metadata),
      std::back_inserter(run->notes));
  auto parts = std::make_unique<GgufParts>(*model.tensors, run->gguf);
  run->parts = parts.get();
  Plan& plan = run->plan;
  for (size_t i = 0; i < parts->tensors().size(); ++i) {
    PlanItem item{parts->tensors()[i]};
    const GgmlType type = parts->output_of(i).info.type;
    if (type == GgmlType::q8_0) {
      OVERPROOF_CHECK(blocks);
      item.scheme = blocks.get();
      item.outputs = item.scheme->outputs(item.source);
      ++plan.quantized;
    } else {
      item.kept_as = dtype_of(type);
      item.must_be_finite = true;
      item.outputs = {item.source};
      item.outputs[0].dtype = item.kept_as;
    }
    plan.bytes_in += item.source.bytes();
    plan.outputs.insert(plan.outputs.end(), item.outputs.begin(), item.outputs.end());
    plan.items.push_back(std::move(item));
  }
  if (blocks) plan.schemes.push_back(std::move(blocks));
  run->view.path = model.path;
  *run->view.config = *model.config;
  run->view.tensors = std::move(parts);
  return run;
}

EngineResult GgufRun::write(Outputs& outputs, const EngineOptions& options) const {
  const SinkMaker make_sink = [&](OutputFolder& to, const std::vector<TensorInfo>&) {
    return std::make_unique<GgufWriter>(to, kGgufName, gguf.metadata, gguf.infos());
  };
  EngineResult made = run_engine(plan, view, make_sink, outputs, options);
  note_digests(outputs, "model", view, made);
  return made;
}

}  // namespace overproof
