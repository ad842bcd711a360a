#include "pipeline/export_policy.h"

#include <fmt/format.h>

#include "audit/policy.h"
#include "core/error.h"
#include "core/json.h"
#include "core/config.h"
#include "formats/gguf_plan.h"
#include "formats/model_check.h"
#include "pipeline/run_stage.h"
#include "provenance/oms.h"
#include "quantize/schemes/scheme.h"

namespace overproof {

Json check_quantize_policy(const StageRequest& request) {
  Options options = request.instance->options();
  const std::string scheme = find_option(options, "scheme", request.spec->name).text();
  return find_scheme(scheme, {})->container() == Container::gguf ? check_export_policy(request) : Json();
}

Json check_export_policy(const StageRequest& request) {
  Options options = request.instance->options();
  const auto text = [&](const char* name) { return find_option(options, name, request.spec->name).text(); };
  const auto& acknowledged = *std::get<StringList*>(find_option(options, "acknowledge", request.spec->name).value);
  const auto file = request.inputs.find("policy");
  const Policy policy = file == request.inputs.end() ? default_policy() : read_policy(file->second);

  const fs::path model = request.inputs.at("model");
  // First whether it can be written at all: licences need no review for a file that cannot be made.
  const Checkpoint checkpoint = open_checkpoint(model);
  check_model(checkpoint);  // which names all that is missing
  plan_gguf(checkpoint, [](const std::string&, const GgufTensorInfo&) { return GgmlType::f32; });
  LineageFacts facts;
  const ArtifactFacts* of = nullptr;
  if (fs::exists(model / kClaimsName)) {
    facts = collect_facts(model, nullptr, {VerifyFiles::no, true});
    require_license_sums(facts);
    of = &facts.artifacts[size_t(facts.subject)];
  }
  const PolicyVerdict verdict = judge(facts, of, policy, {text("name"), acknowledged});
  if (!verdict.holds())
    throw ProvenanceError(fmt::format("{}: blocked by policy{}; nothing was written\n{}", request.spec->name,
                                      file == request.inputs.end() ? "" : " '" + file->second.filename().string() + "'",
                                      explain(verdict)));
  Json items = to_json(verdict)["items"];
  return {{"source", file == request.inputs.end() ? "built-in" : "file"}, {"items", items}};
}

}  // namespace overproof
