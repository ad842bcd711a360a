#pragma once
// `overproof audit sbom`: the lineage as a bill of materials that other tools read.
//
// CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/): every model a machine-learning-model component with its model card and,
// as pedigree, the models whose weights it has; corpora and soft targets data components with licences; the stages as
// formulation. SPDX 3.0.1 (https://spdx.github.io/spdx-spec/v3.0.1/): AIPackage and DatasetPackage elements, a Build for each
// stage, and the relationships trainedOn, testedOn, generates, descendantOf, hasDeclaredLicense, hasInput, hasOutput, contains.
//
// The same run gives the same bytes. Licences are those recorded; nothing is concluded about a derived model's licence.

#include <string>

#include "audit/facts.h"
#include "core/answer.h"

namespace overproof {

struct SbomConfig {
  enum class Format { cyclonedx, spdx } format = Format::cyclonedx;
  DocumentOptions document;
  template <class V>
  void visit(V&& v) {
    v("format", format, enum_of<Format>({{"cyclonedx", Format::cyclonedx}, {"spdx", Format::spdx}}), "CycloneDX 1.6 or SPDX 3.0.1, both as JSON");
    document.visit(v, "file to write instead of standard output",
                   "time of the document and the release it is for, such as 2026-11-24T12:00:00Z; empty: $SOURCE_DATE_EPOCH, "
                   "else none (SPDX, which must have one: 1970)");
  }
};

/// `time`: of document_time().
Json cyclonedx_bom(const LineageFacts& facts, const std::optional<std::string>& time);
Json spdx_document(const LineageFacts& facts, const std::optional<std::string>& time);

/// Statements and the sizes of files are checked before. Throws ProvenanceError where they do not hold.
Answer audit_sbom(const SbomConfig& config, const fs::path& folder);

}  // namespace overproof
