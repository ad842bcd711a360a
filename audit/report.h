#pragma once
// `overproof audit report`: the lineage of a run as one page for people. It needs no script and no network, follows the
// reader's light or dark setting, and is the same bytes for the same run.

#include <iosfwd>
#include <string>

#include "audit/verify.h"
#include "core/config.h"

namespace overproof {

struct ReportConfig {
  std::string out, public_key;
  template <class V>
  void visit(V&& v) {
    v("out", out, any_value(), "HTML file to write (default report.html in the run folder, NAME-report.html beside a single artifact)");
    v("public-key", public_key, any_value(), "PEM file of the signer you trust");
  }
};

/// The page. Everything that comes from files is escaped.
std::string report_html(const Verification& verification, bool trusted_key);

/// Verifies, writes the page, prints where it is. Returns 0, or 4 when the run does not hold: the page then says so.
int audit_report(const ReportConfig& config, const fs::path& folder, bool json, std::ostream& out);

}  // namespace overproof
