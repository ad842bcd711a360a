#pragma once
// `overproof audit report`: the lineage of a run as one page for people, or as JSON for programs. The page needs no script and no
// network, follows the reader's light or dark setting, and is the same bytes for the same run, records and keys.

#include <iosfwd>
#include <string>
#include <string_view>

#include "audit/report_model.h"
#include "core/config.h"

namespace overproof {

struct ReportConfig {
  std::string out, format = "html", auditor_key;
  VerifyConfig verify;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(),
      "file to write, - for standard output; empty: report.html (.json, .md) in the run folder, NAME-report.html beside a single "
      "artifact");
    v("format", format, one_of({"html", "json", "markdown"}), "html is a self-contained page; json says the same for programs");
    verify.visit(v);
    v("auditor-key", auditor_key, any_value(),
      "PEM file of the auditor whose records you trust; empty: records count by the keys that they name");
  }
};

/// The three ways to write a report down. Whatever comes from files is escaped.
std::string report_html(const Report& report);
std::string report_markdown(const Report& report);
/// Two-space indented, ASCII, ends in a newline; "format_version" is 1.
std::string report_json(const Report& report);

/// Text that Markdown shows as it is, within a line.
std::string escape_markdown(std::string_view text);

/// Verifies, writes the report, prints where it is. Returns 0, or 4 when the run does not hold: the report then says so. Throws
/// UsageError where the file would break an artifact's seal.
int audit_report(const ReportConfig& config, const fs::path& folder, bool json, std::ostream& out);

}  // namespace overproof
