#pragma once
// `overproof audit summary --eu`: the public summary of training content that Article 53(1)(d) of Regulation (EU) 2024/1689 asks
// of providers of general-purpose AI models, in the sections of the Commission's template (C(2025) 8311 final of 5 December 2025,
// first presented on 24 July 2025), filled in as far as signed statements go. What no statement records reads "not recorded" and is
// for the provider to write.

#include <string>

#include "audit/facts.h"
#include "core/answer.h"

namespace overproof {

struct SummaryConfig {
  bool eu = false;
  enum class Format { markdown, json } format = Format::markdown;
  DocumentOptions document;
  template <class V>
  void visit(V&& v) {
    v("eu", eu, any_value(), "the EU's template for general-purpose AI models (the only one there is yet)");
    v("format", format, enum_of<Format>({{"markdown", Format::markdown}, {"json", Format::json}}), "of the file that is written");
    document.visit(v, "file to write instead of standard output",
                   "date of the summary, such as 2026-11-24T12:00:00Z; empty: $SOURCE_DATE_EPOCH, else not recorded");
  }
};

/// {"template", "sections": [{"number", "title", "answers": [{"question", "answer", "basis"}], "table"?}]}; basis is "recorded"
/// or "not recorded".
Json eu_summary(const LineageFacts& facts, const std::optional<std::string>& time);

/// Markdown, or with --json or --format json the object above.
Answer audit_summary(const SummaryConfig& config, const fs::path& folder);

}  // namespace overproof
