#pragma once
// Stage "import-samples": texts that a teacher wrote elsewhere become samples with a lineage, which `corpus --samples` takes.
//
//   samples/documents.jsonl   the records, each with name, license, source (which names the teacher) and parents
//   samples/sampling.json     teacher, and how many documents

#include <string>

#include "core/config.h"
#include "core/stage.h"

namespace overproof {

struct ImportSamplesConfig {
  std::string license = "LicenseRef-model-output";
  template <class V>
  void visit(V&& v) {
    v("license", license, any_value(), "licence of the texts, by the teacher's terms");
  }
};

/// Slots: teacher, an artifact of `connect` or `import`; source, JSON Lines: conversations in the forms of data/chat_records.h,
/// {"prompt", "completion"} among them, or {"text"}. Throws FormatError naming the line at fault.
StageReport run_import_samples(const ImportSamplesConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
