#include "pipeline/model_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/utf8.h"
#include "formats/architecture.h"
#include "formats/tensor_source.h"
#include "pipeline/forecast.h"
#include "pipeline/import_stage.h"
#include "provenance/artifact.h"
#include "provenance/lineage_kinds.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

/// What open_checkpoint makes of it; nothing of a lone tensor file, or of a model that cannot be read as one.
struct AsModel {
  std::string model_type, why_not;
  int64_t parameters = 0;
};

AsModel as_model(const fs::path& path) {
  AsModel model;
  try {
    const Checkpoint checkpoint = open_checkpoint(path);
    model.model_type = Architecture(*checkpoint.config).model_type();
    for (const TensorInfo& t : checkpoint.tensors->tensors()) model.parameters += t.elements();
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& e) {
    model.why_not = e.what();
  }
  return model;
}

/// "BF16 71 %, F32 29 %" by bytes, the most first; and as JSON: type -> bytes.
std::pair<std::string, Json> types_of(const Json& listed) {
  std::map<std::string, int64_t> bytes;
  int64_t total = 0;
  for (const Json& file : listed["files"])
    for (const Json& t : file["tensors"]) {
      bytes[t["dtype"].get<std::string>()] += t["bytes"].get<int64_t>();
      total += t["bytes"].get<int64_t>();
    }
  std::vector<std::pair<std::string, int64_t>> sorted(bytes.begin(), bytes.end());
  std::ranges::stable_sort(sorted, [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text;
  for (const auto& [type, n] : sorted)
    text += fmt::format("{}{} {:.1f} %", text.empty() ? "" : ", ", type, total > 0 ? 100.0 * double(n) / double(total) : 0.0);
  return {text, bytes};
}

std::string megabytes(double bytes) { return bytes < 1e5 ? fmt::format("{:.1f} kB", bytes / 1e3) : fmt::format("{:.1f} MB", bytes / 1e6); }

/// The sentence of its statement, and the key that signed it. Files are not read.
struct Maker {
  std::string story, signer, license;
  bool signed_here = false;
};

Maker maker_of(const fs::path& path, const PublicKey* trusted) {
  Maker maker;
  std::error_code error;
  if (!fs::exists(path / "claims.jsonl", error)) return maker;
  const ArtifactCheck check = check_artifact(path, VerifyFiles::no, trusted);
  if (!check.lineage || !check.signatures_hold) {
    maker.story = "its statement does not hold; see 'overproof audit verify'";
    return maker;
  }
  const Lineage& lineage = *check.lineage;
  maker.signed_here = true;
  maker.signer = check.signer_hint;
  std::vector<std::pair<std::string, std::string>> made_from;
  for (const auto& [slot, input] : lineage.inputs) made_from.emplace_back(slot, input.name);
  const LineageKind* kind = find_lineage_kind(lineage.kind);
  maker.story = fmt::format("{}: {}", lineage.stage, kind ? lineage_sentence(*kind, made_from) : lineage.kind);
  for (const auto& [object, name] : {std::pair{&lineage.config, "license"}, std::pair{&lineage.metrics, "stated_license"}})
    if (maker.license.empty() && object->is_object() && object->contains(name) && (*object)[name].is_string())
      maker.license = (*object)[name].get<std::string>();
  return maker;
}

/// The licence in the model's own files; "" where they state none or cannot be read.
std::string license_in_files(const fs::path& path) {
  try {
    return to_valid_utf8(stated_license(path));
  } catch (const Interrupted&) {
    throw;
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

Answer inspect_with_summary(const InspectConfig& config, const fs::path& path, const PublicKey* trusted) {
  Answer listed = inspect(path);
  const AsModel model = as_model(path);
  const auto [types, type_bytes] = types_of(listed.json);
  const int64_t bytes = listed.json["bytes"].get<int64_t>();
  const Maker maker = maker_of(path, trusted);
  const std::string license = maker.license.empty() ? license_in_files(path) : maker.license;
  const bool is_model = model.why_not.empty();
  const ModelLimits limits_here = is_model ? limits_of(path) : ModelLimits{};
  const std::vector<std::string> limits = limits_here.sentences();

  std::string text;
  const auto line = [&](const char* title, const std::string& value) { text += fmt::format("{:<12}{}\n", title, printable(value)); };
  line("model", is_model ? fmt::format("{}, {:.1f} million parameters", model.model_type.empty() ? "of an unnamed type" : model.model_type,
                                       double(model.parameters) / 1e6)
                         : "not read as a model: " + model.why_not);
  line("size", fmt::format("{} of tensors{}", megabytes(double(bytes)),
                           is_model && model.parameters > 0
                               ? fmt::format("; {:.2f} of the same parameters in bf16 ({})", double(bytes) / (2.0 * double(model.parameters)),
                                             megabytes(2.0 * double(model.parameters)))
                               : ""));
  line("stored as", types);
  line("licence", license.empty() ? "none stated here" : license + (maker.license.empty() ? ", as its files state" : ", as its import recorded"));
  line("made by", maker.story.empty() ? "not known: it has no statement of overproof" : maker.story);
  if (maker.signed_here) line("", signature_seen({maker.signer}, trusted != nullptr));
  if (is_model) {
    if (limits.empty()) line("use", "can teach, be measured, be carved or pruned, quantized and exported here");
    else if (limits_here.run.empty()) line("use", "can teach, be measured and generate text here, and be quantized");
    for (const std::string& limit : limits) line("limit", limit);
  }
  const Json summary = {{"model_type", is_model ? Json(model.model_type) : Json()},
                        {"parameters", is_model ? Json(model.parameters) : Json()},
                        {"bytes", bytes},
                        {"bytes_in_bf16", is_model ? Json(2 * model.parameters) : Json()},
                        {"dtypes", type_bytes},
                        {"license", license.empty() ? Json() : Json(license)},
                        {"made_by", maker.signed_here ? Json(maker.story) : Json()},
                        {"signer", maker.signed_here ? Json(maker.signer) : Json()},
                        {"limits", limits},
                        {"limits_by_use", is_model ? limits_here.json() : Json()}};
  Answer answer = config.as_model || config.digests ? inspect_model(config, path) : std::move(listed);
  answer.json["summary"] = summary;
  answer.text = text + "\n" + answer.text;
  return answer;
}

}  // namespace overproof
