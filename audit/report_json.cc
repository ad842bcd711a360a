#include <algorithm>
#include <cmath>

#include "audit/report.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr const char* kStandingIds[kStandings] = {"proved", "sampled", "audited", "estimated", "recorded", "unchecked", "failed"};

Json optional(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json tally(const ReportTally& t) {
  return {{"name", t.name}, {"documents", t.documents}, {"tokens", t.tokens}, {"bytes", t.bytes}};
}

Json license(const ReportLicense& l) {
  return {{"recorded", l.tally.name}, {"spdx", l.spdx}, {"duties", l.duties}, {"known", l.known}, {"choice", l.choice}};
}

Json artifacts(const Report& r) {
  Json list = Json::array();
  for (const ReportArtifact& a : r.artifacts) {
    Json inputs = Json::array();
    for (size_t i = 0; i < a.made_from.size(); ++i)
      inputs.push_back({{"slot", a.made_from[i].first}, {"artifact", a.made_from[i].second}, {"here", a.parents[i] >= 0}});
    list.push_back({{"name", a.name},
                    {"kind", a.kind},
                    {"stage", a.stage},
                    {"root", a.root.empty() ? Json(nullptr) : Json("sha256:" + a.root)},
                    {"signer", a.signer},
                    {"story", a.story},
                    {"inputs", inputs},
                    {"files", a.files},
                    {"bytes", a.bytes},
                    {"ffn_activation", optional(a.ffn_activation)},
                    {"holds", a.holds},
                    {"model", a.is_model},
                    {"end", a.is_end}});
  }
  return list;
}

Json experts(const Report& r) {
  Json list = Json::array();
  for (const ReportExperts& e : r.experts) {
    Json sources = Json::array(), layers = Json::array();
    for (const ReportTally& t : e.sources) sources.push_back({{"name", t.name}, {"tokens", t.tokens}});
    for (const auto& layer : e.layer) {
      Json rows = Json::array();
      for (const ReportExpert& x : layer) {
        Json shares = Json::array();
        for (const ReportShare& s : x.sources)
          shares.push_back({{"source", s.source}, {"tokens", s.tokens}, {"mass", s.mass}, {"lift", s.lift}});
        rows.push_back({{"layer", x.layer}, {"expert", x.expert}, {"tokens", x.tokens}, {"sources", shares}});
      }
      layers.push_back(rows);
    }
    list.push_back({{"artifact", e.artifact},
                    {"layers", e.layers},
                    {"experts", e.experts},
                    {"tokens", e.tokens},
                    {"sources", sources},
                    {"by_layer", layers},
                    {"experts_left_out", e.left_out}});
  }
  return list;
}

Json quality(const Report& r) {
  Json list = Json::array();
  for (const ReportQuality& q : r.quality) {
    Json rows = Json::array();
    for (const ReportQualityRow& m : q.rows)
      rows.push_back({{"name", m.name},
                      {"perplexity", optional(m.perplexity)},
                      {"kl_mean", optional(m.kl_mean)},
                      {"kl_p99", optional(m.kl_p99)},
                      {"top1_agreement", optional(m.top1_agreement)},
                      {"ffn_activation", optional(m.ffn_activation)},
                      {"parameter_activation", optional(m.parameter_activation)},
                      {"bytes", optional(m.bytes)}});
    list.push_back({{"artifact", q.artifact}, {"tokens", optional(q.tokens)}, {"models", rows}});
  }
  return list;
}

/// Of each series where it began, its least and where it ended: the steps themselves stand in the artifact.
Json training(const Report& r) {
  Json list = Json::array();
  for (const ReportTraining& t : r.training) {
    Json series = Json::object();
    for (const auto* group : {&t.losses, &t.balance})
      for (const ReportSeries& s : *group) {
        std::vector<double> values;
        for (const double v : s.values)
          if (std::isfinite(v)) values.push_back(v);
        if (!values.empty())
          series[s.name] = {{"first", values.front()},
                            {"least", *std::min_element(values.begin(), values.end())},
                            {"last", values.back()},
                            {"steps", values.size()}};
      }
    Json item = {{"artifact", t.artifact}, {"series", series}, {"expert_load", t.loads}};
    if (!t.fault.empty()) item["fault"] = t.fault;
    list.push_back(item);
  }
  return list;
}

/// Records as they were signed: whoever reads JSON wants the numbers, not their wording.
Json audits(const Report& r) {
  static constexpr const char* kIds[] = {"counts", "elsewhere", "forged", "unreadable"};
  Json list = Json::array();
  for (const ReportAudit& a : r.audits.list) {
    Json subjects = Json::array();
    for (const ReportSubject& s : a.subjects)
      subjects.push_back({{"name", s.name}, {"root", "sha256:" + s.root}, {"here", s.here}});
    list.push_back({{"file", a.file},
                    {"kind", a.kind},
                    {"standing", kIds[size_t(a.standing)]},
                    {"why", a.why},
                    {"signer", a.signer},
                    {"trusted", a.trusted},
                    {"by_maker", a.by_maker},
                    {"subjects", subjects},
                    {"result", a.result}});
  }
  return list;
}

}  // namespace

std::string report_json(const Report& r) {
  Json claims = Json::array(), limits = Json::array(), findings = Json::array(), origins = Json::array(), corpora = Json::array();
  for (const ReportClaim& c : r.claims)
    claims.push_back({{"id", c.id},
                      {"claim", c.claim},
                      {"standing", kStandingIds[size_t(c.standing)]},
                      {"how", c.how},
                      {"command", c.command}});
  for (const ReportLimit& l : r.limits) limits.push_back({{"trick", l.trick}, {"obstacle", l.obstacle}, {"here", l.here}});
  for (const Finding& f : r.findings)
    findings.push_back({{"severity", f.severity == Severity::failure ? "failure" : "note"},
                        {"artifact", f.artifact},
                        {"file", f.file},
                        {"what", f.what},
                        {"remedy", f.remedy}});
  for (const ReportOrigin& o : r.origins)
    origins.push_back(
        {{"artifact", o.artifact}, {"name", o.name}, {"kind", o.kind}, {"teaches", o.teaches}, {"license", license(o.license)}});
  for (const ReportCorpus& c : r.corpora) {
    Json licenses = Json::array(), sources = Json::array();
    for (const ReportLicense& l : c.licenses) {
      Json item = license(l);
      item.update(Json{{"documents", l.tally.documents}, {"tokens", l.tally.tokens}, {"bytes", l.tally.bytes}});
      licenses.push_back(item);
    }
    for (const ReportTally& t : c.sources) sources.push_back(tally(t));
    corpora.push_back({{"artifact", c.artifact},
                       {"documents", c.total.documents},
                       {"tokens", c.total.tokens},
                       {"bytes", c.total.bytes},
                       {"committed", c.committed},
                       {"licenses", licenses},
                       {"sources", sources}});
  }
  const Json report = {{"format_version", 1},
                       {"title", r.title},
                       {"single", r.single},
                       {"holds", r.holds},
                       {"trusted_key", r.trusted_key},
                       {"trusted_auditor", r.trusted_auditor},
                       {"files", r.files},
                       {"bytes", r.bytes},
                       {"signers", r.signers},
                       {"artifacts", artifacts(r)},
                       {"left_out", r.left_out},
                       {"findings", findings},
                       {"claims", claims},
                       {"limits", limits},
                       {"origins", origins},
                       {"corpora", corpora},
                       {"acknowledged", r.acknowledged},
                       {"beacons", r.beacons},
                       {"experts", experts(r)},
                       {"quality", quality(r)},
                       {"training", training(r)},
                       {"audits", audits(r)},
                       {"audits_not_read", r.audits.not_read},
                       {"builders", r.builders}};
  return report.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

}  // namespace overproof
