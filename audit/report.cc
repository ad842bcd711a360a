#include "audit/report.h"

#include <fmt/format.h>

#include <ostream>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

/// Inside a sealed artifact the report would be a file that nobody signed.
void require_outside_artifacts(const fs::path& file) {
  const fs::path whole = fs::weakly_canonical(fs::absolute(file));
  for (fs::path folder = whole.parent_path(); folder.has_relative_path(); folder = folder.parent_path())
    if (fs::exists(folder / kClaimsName) || fs::exists(folder / kModelSignatureName))
      throw UsageError(fmt::format("{}: stands in the artifact '{}', whose seal it would break; name a place beside it",
                                   file.string(), folder.filename().string()));
}

fs::path default_file(const RunFolder& run, const std::string& format) {
  const std::string name = format == "html" ? "report.html" : format == "json" ? "report.json" : "report.md";
  return run.single ? run.path.parent_path() / (run.path.filename().string() + "-" + name) : run.path / name;
}

}  // namespace

int audit_report(const ReportConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  ReportTrust trust;
  trust.signer = config.verify.trust.given();
  if (!config.auditor_key.empty()) trust.auditor = PublicKey::read(config.auditor_key);
  if (config.out != "-" && !config.out.empty()) require_outside_artifacts(config.out);

  const Verification v = verify_run(folder, config.verify);
  const Report report = gather_report(v, trust);
  const std::string text = config.format == "html"   ? report_html(report)
                           : config.format == "json" ? report_json(report)
                                                     : report_markdown(report);
  if (config.out == "-") {
    out << text;
    return report.holds ? 0 : 4;
  }
  const fs::path file = config.out.empty() ? default_file(v.run, config.format) : fs::path(config.out);
  write_file_atomically(file, text);
  if (json)
    out << Json{{"out", file.string()}, {"holds", report.holds}}.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else
    out << fmt::format("{}: {} artifacts, {}\n", printable(file.string()), v.run.nodes.size(),
                       report.holds ? "everything holds" : "this run does not hold");
  return report.holds ? 0 : 4;
}

}  // namespace overproof
