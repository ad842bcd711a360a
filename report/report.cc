#include "report/report.h"

#include <fmt/format.h>

#include "audit/facts.h"
#include "core/json.h"
#include "core/printable.h"
#include "report/render.h"
#include "report/view.h"

namespace overproof {
namespace {

fs::path default_file(const RunFolder& run, ReportFormat format) {
  const std::string name = format == ReportFormat::html   ? "report.html"
                           : format == ReportFormat::json ? "report.json"
                                                          : "report.md";
  return run.single ? run.path.parent_path() / (run.path.filename().string() + "-" + name) : run.path / name;
}

}  // namespace

Answer audit_report(const ReportConfig& config, const fs::path& folder) {
  ReportTrust trust;
  trust.signer = config.verify.trust.given();
  if (!config.auditor_key.empty()) trust.auditor = PublicKey::read(config.auditor_key);
  if (config.out != "-" && !config.out.empty()) outside_artifacts(config.out);

  const Verification v = verify_run(folder, config.verify);
  const Report report = gather_report(v, trust);
  const std::string text = config.format == ReportFormat::html ? report_html(report)
                           : config.format == ReportFormat::markdown
                               ? report_markdown(report)
                               : report_json(report).dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
  const Verdict verdict = report.verdict();
  Answer answer{{{"holds", report.holds}, {"verdict", verdict_id(verdict)}}, text, verdict == Verdict::fails ? 4 : 0};
  if (config.out == "-") {
    answer.json["report"] = config.format == ReportFormat::json ? Json::parse(text) : Json(text);
    return answer;
  }
  const fs::path file = config.out.empty() ? default_file(v.run, config.format) : config.out;
  write_file_atomically(file, text);
  answer.json["out"] = file.string();
  answer.text = fmt::format("{}: {} artifacts. {}\n", printable(file.string()), v.run.nodes.size(), verdict_text(report));
  return answer;
}

}  // namespace overproof
