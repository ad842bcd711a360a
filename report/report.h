#pragma once
// `overproof audit report`: the lineage of a run as one page for people, or as JSON for programs. The page needs no script and no
// network, follows the reader's light or dark setting, and is the same bytes for the same run, records and keys.

#include "audit/verify.h"
#include "core/answer.h"
#include "core/config.h"

namespace overproof {

enum class ReportFormat { html, json, markdown };

struct ReportConfig {
  fs::path out;
  ReportFormat format = ReportFormat::html;
  fs::path auditor_key;
  VerifyConfig verify;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(),
      "file to write, - for standard output; empty: report.html (.json, .md) in the run folder, NAME-report.html next to a "
      "single "
      "artifact");
    v("format", format,
      enum_of<ReportFormat>({{"html", ReportFormat::html}, {"json", ReportFormat::json}, {"markdown", ReportFormat::markdown}}),
      "html is a self-contained page; json has the same content for programs");
    verify.visit(v);
    v("auditor-key", auditor_key, any_value(),
      "PEM file of the auditor whose records you trust; empty: each record counts by the key that it names");
  }
};

/// Verifies `folder`, a run or one artifact, and writes the report. The exit code is 0, or 4 when the run or a claim does not
/// hold, which the report then states. Throws UsageError where the file would break an artifact's seal, FormatError on a bad key, IoError.
Answer audit_report(const ReportConfig& config, const fs::path& folder);

}  // namespace overproof
