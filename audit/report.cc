#include "audit/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <ostream>

#include "audit/report_style.h"
#include "audit/report_svg.h"
#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

/// Any JSON in a run may lack what is looked for: a report shows what is there.
std::optional<double> number(const Json& object, const char* name) {
  if (!object.is_object() || !object.contains(name) || !object[name].is_number()) return std::nullopt;
  const double value = object[name].get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

std::string text(const Json& object, const char* name) {
  if (!object.is_object() || !object.contains(name) || !object[name].is_string()) return {};
  return object[name].get<std::string>();
}

std::string cell(std::string_view content, bool right = false) {
  return fmt::format("<td{}>{}</td>", right ? " class=\"n\"" : "", escape_html(content));
}

std::string cell(const std::optional<double>& value, const char* format, double scale = 1) {
  return cell(value ? fmt::format(fmt::runtime(format), *value * scale) : "", true);
}

std::string header_row(std::initializer_list<std::string_view> names) {
  std::string row = "<tr>";
  for (const std::string_view name : names) row += fmt::format("<th scope=\"col\">{}</th>", name);
  return row + "</tr>\n";
}

std::string megabytes(double bytes) { return bytes < 1e5 ? fmt::format("{:.1f} kB", bytes / 1e3) : fmt::format("{:.1f} MB", bytes / 1e6); }

std::string section(std::string_view title, const std::string& body) {
  return body.empty() ? "" : fmt::format("<section><h2>{}</h2>\n{}</section>\n", title, body);
}

/// A JSON file of an artifact that holds; nothing when there is none or it cannot be read.
std::optional<Json> artifact_json(const ArtifactNode& node, const char* name) {
  try {
    if (fs::is_regular_file(node.path / name)) return read_json(node.path / name, int64_t{16} << 20);
  } catch (const FormatError&) {
  }
  return std::nullopt;
}

std::string verification_section(const Verification& v, bool trusted) {
  std::string body;
  if (v.holds())
    body += fmt::format("<p class=\"good\">Everything holds: {} files in {} artifacts are as they were signed, and every chain ends at "
                        "its sources.</p>\n", v.files, v.run.nodes.size());
  else
    body += "<p class=\"failed\">This run does not hold. What follows may be false where it rests on what is listed here.</p>\n";
  std::string rows;
  for (const Finding& f : v.findings) {
    const std::string place = f.artifact + (f.file.empty() ? "" : "/" + f.file);
    rows += fmt::format("<tr>{}{}{}{}</tr>\n", cell(f.severity == Severity::failure ? "failure" : "note"), cell(place), cell(f.what), cell(f.remedy));
  }
  if (!rows.empty()) body += "<table>" + header_row({"", "where", "what", "remedy"}) + rows + "</table>\n";

  body += "<h3>Proved</h3><ul><li>No file changed since it was signed, and none is missing or was added.</li>"
          "<li>Every artifact names, by digest, exactly the artifacts it was made from, and they are here.</li>";
  body += trusted ? "<li>All of it was signed with the key that the reader trusts.</li>"
                  : "<li>All of it was signed with one key; whose it is was not checked here.</li>";
  body += "<li>The order of training follows from the corpus: the steps of a document can be computed "
          "(<code>overproof audit trace</code>).</li></ul>\n"
          "<h3>Estimated</h3><ul><li>Quality, from held-out documents.</li>"
          "<li>Soft targets of kind <em>sample</em>: an unbiased estimate of the teacher's distribution.</li></ul>\n"
          "<h3>Only recorded, never proved</h3><ul><li>Where a document comes from, and its licence.</li>"
          "<li>That the signer ran the stages as stated: a signer can sign false statements.</li>"
          "<li>When it happened: no statement holds a time.</li></ul>\n";
  return section(v.holds() ? "Verification" : "Verification failed", body);
}

std::string artifacts_section(const Verification& v) {
  std::string rows;
  for (const ArtifactNode& node : v.run.nodes) {
    const Lineage* lineage = node.lineage();
    if (!lineage) continue;
    double bytes = 0;
    for (const FileRecord& file : lineage->files) bytes += double(std::max<int64_t>(file.bytes, 0));
    const std::string root = lineage->root.hex();
    std::string inputs;
    for (const auto& [slot, input] : lineage->inputs) inputs += (inputs.empty() ? "" : ", ") + input.name;
    rows += fmt::format("<tr>{}{}{}{}{}{}<td><code title=\"sha256:{}\">{}&hellip;</code></td></tr>\n", cell(node.name), cell(lineage->kind),
                        cell(inputs), cell(std::to_string(lineage->files.size()), true), cell(megabytes(bytes), true),
                        cell(number(lineage->metrics, "ffn_activation"), "{:.1f} %", 100), root, root.substr(0, 16));
  }
  return section("Artifacts",
                 "<table>" + header_row({"artifact", "kind", "made from", "files", "size", "FFN activation", "identity"}) + rows + "</table>\n");
}

std::string quality_section(const Verification& v) {
  std::string body;
  for (const ArtifactNode& node : v.run.nodes) {
    if (!node.lineage() || node.lineage()->kind != "evaluated") continue;
    const auto evaluation = artifact_json(node, "evaluation.json");
    if (!evaluation || !evaluation->is_object() || !evaluation->contains("models") || !(*evaluation)["models"].is_array()) continue;
    body += "<table>" + header_row({"model", "perplexity", "mean KL to teacher", "99 % KL", "top-1 agreement", "FFN activation",
                                    "parameter activation", "size"});
    for (const Json& m : (*evaluation)["models"]) {
      const auto bytes = number(m, "bytes");
      body += fmt::format("<tr>{}{}{}{}{}{}{}{}</tr>\n", cell(text(m, "name")), cell(number(m, "perplexity"), "{:.3f}"),
                          cell(number(m, "kl_mean"), "{:.4f}"), cell(number(m, "kl_p99"), "{:.3f}"),
                          cell(number(m, "top1_agreement"), "{:.1f} %", 100), cell(number(m, "ffn_activation"), "{:.1f} %", 100),
                          cell(number(m, "parameter_activation"), "{:.1f} %", 100), cell(bytes ? megabytes(*bytes) : "", true));
    }
    body += "</table>\n";
    if (const auto tokens = number(*evaluation, "tokens"))
      body += fmt::format("<p>Measured on {:.0f} held-out tokens; KL in nats a token.</p>\n", *tokens);
  }
  return section("Quality", body);
}

std::vector<Series> read_steps(const fs::path& file, std::initializer_list<const char*> names) {
  std::vector<Series> series;
  for (const char* name : names) series.push_back({name, {}});
  const std::string all = read_file(file, int64_t{256} << 20);
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find('\n', begin), all.size());
    const Json line = parse_json(std::string_view(all).substr(begin, end - begin), file, int64_t(begin));
    for (Series& s : series) s.values.push_back(number(line, s.name.c_str()).value_or(NAN));
    begin = end + 1;
  }
  return series;
}

std::vector<std::vector<double>> read_loads(const Json& metrics) {
  std::vector<std::vector<double>> loads;
  if (!metrics.is_object() || !metrics.contains("expert_load") || !metrics["expert_load"].is_array()) return loads;
  for (const Json& layer : metrics["expert_load"]) {
    loads.emplace_back();
    if (layer.is_array())
      for (const Json& value : layer) loads.back().push_back(value.is_number() && std::isfinite(value.get<double>()) ? value.get<double>() : 0.0);
  }
  return loads;
}

std::string training_section(const Verification& v) {
  std::string body;
  for (const ArtifactNode& node : v.run.nodes) {
    if (!node.lineage()) continue;
    std::string part;
    try {
      if (fs::is_regular_file(node.path / "steps.jsonl")) {
        part += lines_svg(node.name + ": loss, KL and cross-entropy, nats a token", read_steps(node.path / "steps.jsonl", {"loss", "kl", "ce"}));
        part += lines_svg(node.name + ": largest expert load over the mean", read_steps(node.path / "steps.jsonl", {"balance"}));
      }
    } catch (const FormatError& e) {
      part += fmt::format("<p>{}</p>\n", escape_html(e.what()));
    }
    if (const std::string loads = loads_svg(node.name + ": expert load by layer", read_loads(node.lineage()->metrics)); !loads.empty())
      part += "<p>Load of each expert: darker takes more tokens, full colour is twice the mean of its layer.</p>\n" + loads;
    if (!part.empty()) body += fmt::format("<h3>{}</h3>\n{}", escape_html(node.name), part);
  }
  return section("Training", body);
}

std::string tally_table(const Json& licenses, const char* member, std::string_view title) {
  if (!licenses.is_object() || !licenses.contains(member) || !licenses[member].is_object()) return {};
  std::string rows;
  for (const auto& [name, tally] : licenses[member].items()) {
    const auto bytes = number(tally, "bytes");
    rows += fmt::format("<tr>{}{}{}{}</tr>\n", cell(name), cell(number(tally, "documents"), "{:.0f}"), cell(number(tally, "tokens"), "{:.0f}"),
                        cell(bytes ? megabytes(*bytes) : "", true));
  }
  return rows.empty() ? "" : "<table>" + header_row({title, "documents", "tokens", "size"}) + rows + "</table>\n";
}

std::string licenses_section(const Verification& v) {
  std::string models, body;
  for (const ArtifactNode& node : v.run.nodes) {
    if (!node.lineage()) continue;
    const Json& config = node.lineage()->config;
    if (node.lineage()->kind == "imported")
      models += fmt::format("<tr>{}{}{}</tr>\n", cell(node.name), cell(text(config, "name")), cell(text(config, "license")));
    if (node.lineage()->kind == "corpus-of")
      if (const auto licenses = artifact_json(node, "licenses.json"))
        body += tally_table(*licenses, "licenses", "licence") + tally_table(*licenses, "sources", "source");
  }
  if (!models.empty()) body = "<table>" + header_row({"from outside", "name", "licence"}) + models + "</table>\n" + body;
  return section("Licences and sources", body);
}

std::string builders_section(const Verification& v) {
  std::map<std::string, std::string> versions;
  for (const ArtifactNode& node : v.run.nodes)
    if (node.lineage())
      for (const auto& [name, version] : node.lineage()->builder) {
        std::string& all = versions[name];
        if (all.find(version) == std::string::npos) all += (all.empty() ? "" : ", ") + version;
      }
  std::string rows;
  for (const auto& [name, version] : versions) rows += fmt::format("<tr>{}{}</tr>\n", cell(name), cell(version));
  for (const std::string& signer : v.signers) rows += fmt::format("<tr>{}<td><code>{}</code></td></tr>\n", cell("signing key"), escape_html(signer));
  return section("Made with", rows.empty() ? "" : "<table>" + rows + "</table>\n");
}

}  // namespace

std::string report_html(const Verification& v, bool trusted) {
  std::string page = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                     "<meta name=\"color-scheme\" content=\"light dark\">\n<title>Lineage report</title>\n<style>\n";
  page += kReportStyle;
  page += "</style>\n</head>\n<body>\n<main>\n<h1>Lineage report</h1>\n";
  page += fmt::format("<p>{} artifacts, {} files, {}. <strong class=\"{}\">{}</strong></p>\n", v.run.nodes.size(), v.files,
                      megabytes(double(v.bytes)), v.holds() ? "good" : "failed", v.holds() ? "Everything holds." : "This run does not hold.");
  page += section("Pipeline", "<div class=\"wide\">" + pipeline_svg(v.run) + "</div>\n");
  page += quality_section(v) + verification_section(v, trusted) + artifacts_section(v) + licenses_section(v) + training_section(v) +
          builders_section(v);
  return page + "</main>\n</body>\n</html>\n";
}

int audit_report(const ReportConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  const Verification v = verify_run(folder, VerifyConfig{config.public_key});
  fs::path file = config.out;
  // Never inside a sealed artifact: there it would be a file that nobody signed.
  if (file.empty()) file = v.run.single ? v.run.path.parent_path() / (v.run.path.filename().string() + "-report.html") : v.run.path / "report.html";
  write_file_atomically(file, report_html(v, !config.public_key.empty()));
  if (json) out << Json{{"out", file.string()}, {"holds", v.holds()}}.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else out << fmt::format("{}: {} artifacts, {}\n", file.string(), v.run.nodes.size(), v.holds() ? "everything holds" : "this run does not hold");
  return v.holds() ? 0 : 4;
}

}  // namespace overproof
