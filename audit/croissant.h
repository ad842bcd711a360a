#pragma once
// `overproof audit croissant`: a corpus as a Croissant 1.1 description
// (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html), JSON-LD with PROV-O terms (https://www.w3.org/TR/prov-o/)
// for what made it. Every file is named with its SHA-256, so a loader that checks them reads the documents that were signed. One
// record set lists the documents, one for each source holds their texts.

#include <string>

#include "audit/facts.h"
#include "core/answer.h"

namespace overproof {

struct CroissantConfig {
  DocumentOptions document;
  template <class V>
  void visit(V&& v) {
    document.visit(v, "file to write instead of standard output; its place decides how it names the corpus's files",
                   "time of publication, such as 2026-11-24T12:00:00Z; empty: $SOURCE_DATE_EPOCH, else none");
  }
};

/// `files`: path of the corpus relative to the description, "" or ending with '/'.
Json croissant(const LineageFacts& facts, const ArtifactFacts& corpus, const std::string& files,
               const std::optional<std::string>& time);

/// `folder`: a corpus, or a run with exactly one.
Answer audit_croissant(const CroissantConfig& config, const fs::path& folder);

}  // namespace overproof
