// The report: a signed audit record may hold any JSON, and names may be any bytes. Whatever they are, the page has only tags of
// its own.

#include <string>

#include "report/render.h"
#include "core/error.h"
#include "core/json.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

namespace {

/// Tags of the page; a name that got through unescaped would begin with another, or with none.
bool is_ours(std::string_view rest) {
  for (const char* tag :
       {"!DOCTYPE", "a ",     "bdi",  "body",  "caption", "code", "dd",   "desc",  "details", "div",  "dl",     "dt",    "figcaption",
        "figure",   "footer", "g ",    "g>",      "h1",   "h2",   "h3",    "head",    "html", "li",     "link",  "main",
        "meta",     "nav",    "ol",    "p ",      "p>",   "path", "rect",  "section", "span", "strong", "style", "summary",
        "svg",      "table",  "tbody", "td",      "text", "th",   "title", "tr",      "ul",   "a>"})
    if (rest.starts_with(tag) || (rest.starts_with('/') && rest.substr(1).starts_with(tag))) return true;
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  static constexpr const char* kKinds[] = {"replay", "recompute", "compare", "checkpoint"};
  Report report;
  report.title = text;
  report.artifacts.push_back({text,
                              text,
                              "distill",
                              std::string(64, 'a'),
                              std::string(64, 'b'),
                              text,
                              {{text, text}},
                              {-1},
                              {text},
                              1,
                              1,
                              {},
                              true,
                              true});
  report.artifacts.push_back(
      {"student", "distilled-from", "distill", "", "", "", {{"student", text}}, {0}, {}, 1, 1, {}, false, true});
  report.findings.push_back({Severity::failure, text, text, text, text});
  report.signers = {text};
  ReportAudit audit{"record.json",
                    kKinds[data[0] % 4],
                    RecordStatus::counts,
                    "",
                    text,
                    data[0] % 8 < 4,
                    false,
                    {{text, std::string(64, 'a'), "student"}},
                    Json::object()};
  try {
    audit.result = parse_json(text, "record.json");
  } catch (const FormatError&) {
    audit.result = text;
  }
  add_audit(report.audits, std::move(audit));
  judge_claims(report);
  const std::string page = report_html(report);
  const size_t style = page.find("<style>"), body = page.find("</style>");
  for (size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1))
    fuzz::require((at > style && at < body) || is_ours(std::string_view(page).substr(at + 1, 12)));
  const std::string markdown = report_markdown(report);
  fuzz::require(markdown.find('<') == std::string::npos || markdown.find('`') < markdown.find('<'));  // in code alone
  parse_json(report_json(report).dump(-1, ' ', true, Json::error_handler_t::replace), "report.json");
  return 0;
}
