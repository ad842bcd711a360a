#include <algorithm>
#include <cmath>

#include "core/json.h"
#include "report/model.h"

namespace overproof {
namespace {

/// A JSON array with `convert` of each element.
template <class List, class Convert>
Json array(const List& list, Convert convert) {
  Json json = Json::array();
  for (const auto& item : list) json.push_back(convert(item));
  return json;
}

Json optional(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json license(const ReportLicense& l) {
  return {{"recorded", l.recorded}, {"spdx", l.spdx}, {"duties", l.duties}, {"known", l.known}, {"choice", l.choice}};
}

Json tally(const Tally& t) { return {{"documents", t.documents}, {"tokens", t.tokens}, {"bytes", t.bytes}}; }

Json with(Json object, const Json& more) {
  object.update(more);
  return object;
}

Json artifact(const ReportArtifact& a) {
  Json inputs = Json::array();
  for (size_t i = 0; i < a.made_from.size(); ++i)
    inputs.push_back({{"slot", a.made_from[i].first}, {"artifact", a.made_from[i].second}, {"here", a.parents[i] >= 0}});
  return {{"name", a.name},     {"kind", a.kind},
          {"stage", a.stage},   {"root", a.root.empty() ? Json(nullptr) : Json("sha256:" + a.root)},
          {"signer", a.signer}, {"story", a.story},
          {"inputs", inputs},   {"files", a.files},
          {"bytes", a.bytes},   {"ffn_activation", optional(a.ffn_activation)},
          {"parameters", optional(a.parameters)},
          {"holds", a.holds},   {"model", a.is_model()},
          {"end", a.is_end}};
}

Json corpus(const ReportCorpus& c) {
  return with(
      tally(c.facts.total),
      {{"artifact", c.artifact},
       {"committed", c.facts.committed},
       {"licenses",
        array(c.facts.licenses,
              [&](const LicenseCount& l) {
                const auto found = c.reached ? c.reached->find(l.recorded) : std::map<std::string, int64_t>::const_iterator();
                return with(with(license(report_license(l.recorded)), tally(l.count)),
                            {{"documents_reached", !c.reached                     ? Json(nullptr)
                                                   : found == c.reached->end() ? Json(0)
                                                                               : Json(found->second)}});
              })},
       {"sources", array(c.facts.sources, [](const SourceCount& s) {
          return with(tally(s.count), {{"name", s.name}});
        })}});
}

Json experts(const ReportExperts& e) {
  const auto share = [](const ReportShare& s) {
    return Json{{"source", s.source}, {"tokens", s.tokens}, {"mass", s.mass}, {"lift", s.lift}};
  };
  const auto expert = [&](const ReportExpert& x) {
    return Json{{"layer", x.layer}, {"expert", x.expert}, {"tokens", x.tokens}, {"sources", array(x.sources, share)}};
  };
  return {{"artifact", e.artifact},
          {"layers", e.layers},
          {"experts", e.experts},
          {"tokens", e.tokens},
          {"apart", e.apart},
          {"sources", array(e.sources,
                            [](const SourceCount& s) {
                              return Json{{"name", s.name}, {"tokens", s.count.tokens}};
                            })},
          {"by_layer", array(e.layer, [&](const auto& layer) { return array(layer, expert); })},
          {"experts_left_out", e.left_out}};
}

Json quality(const ReportQuality& q) {
  const auto task = [](const EvaluationTask& t) {
    return Json{{"name", t.name},
                {"questions", t.questions ? Json(*t.questions) : Json(nullptr)},
                {"acc", optional(t.acc)},
                {"acc_stderr", optional(t.acc_stderr)},
                {"acc_norm", optional(t.acc_norm)},
                {"acc_norm_stderr", optional(t.acc_norm_stderr)},
                {"greedy", optional(t.greedy)}};
  };
  const auto model = [&](const EvaluatedModel& m) {
    return Json{{"name", m.name},
                {"artifact", m.bound},
                {"perplexity", optional(m.perplexity)},
                {"kl_mean", optional(m.kl_mean)},
                {"kl_p99", optional(m.kl_p99)},
                {"top1_agreement", optional(m.top1_agreement)},
                {"ffn_activation", optional(m.ffn_activation)},
                {"parameter_activation", optional(m.parameter_activation)},
                {"bytes", optional(m.bytes)},
                {"parameters", optional(m.parameters)},
                {"bytes_per_token", optional(m.bytes_per_token)},
                {"loops", optional(m.loops)},
                {"loops_penalised", optional(m.loops_penalised)},
                {"calibration_error", optional(m.calibration_error)},
                {"tasks", array(m.tasks, task)}};
  };
  return {{"artifact", q.artifact}, {"tokens", optional(q.facts.tokens)}, {"repetition_penalty", optional(q.facts.repetition_penalty)}, {"models", array(q.facts.models, model)}};
}

Json arena(const ReportArena& a) {
  Json json = to_json(a.facts);
  json["artifact"] = a.artifact;
  return json;
}

Json shipping(const ReportShipping& s) {
  const auto count = [](const std::optional<int64_t>& n) { return n ? Json(*n) : Json(nullptr); };
  Json terms = to_json(PolicyVerdict{[&] {
    std::vector<PolicyItem> items;
    for (const ReportTerm& t : s.terms) items.push_back(t.item);
    return items;
  }()});
  for (size_t i = 0; i < s.terms.size(); ++i)
    terms["items"][i].update({{"documents", count(s.terms[i].documents)}, {"documents_reached", count(s.terms[i].reached)}});
  terms["models"] = s.models;
  terms["complete"] = s.complete;
  return terms;
}

Json recovery(const ReportRecovery& e) {
  Json errors = Json::object();
  for (const StepSeries& s : e.errors) errors[s.name] = s.values;
  return {{"artifact", e.artifact}, {"errors", errors}, {"kept", e.kept}};
}

/// First, least and last value of each series; the steps themselves are in the artifact.
Json training(const ReportTraining& t) {
  Json all = Json::object();
  for (const auto* group : {&t.losses, &t.balance})
    for (const StepSeries& s : *group) {
      std::vector<double> values;
      std::copy_if(s.values.begin(), s.values.end(), std::back_inserter(values), [](double v) { return std::isfinite(v); });
      if (!values.empty())
        all[s.name] = {{"first", values.front()},
                       {"least", *std::min_element(values.begin(), values.end())},
                       {"last", values.back()},
                       {"steps", values.size()}};
    }
  Json json = {{"artifact", t.artifact}, {"series", all}, {"expert_load", t.loads}};
  if (!t.fault.empty()) json["fault"] = t.fault;
  return json;
}

/// The record's own values, unlike the page, which words them.
Json audit(const ReportAudit& a) {
  static constexpr const char* kStatuses[] = {"counts", "elsewhere", "forged", "unreadable"};
  const auto subject = [](const ReportSubject& s) {
    return Json{{"name", s.name}, {"root", "sha256:" + s.root}, {"here", s.here}};
  };
  return {{"file", a.file},
          {"kind", a.kind},
          {"status", kStatuses[size_t(a.status)]},
          {"why", a.why},
          {"signer", a.signer},
          {"trusted", a.trusted},
          {"by_maker", a.by_maker},
          {"subjects", array(a.subjects, subject)},
          {"result", a.result}};
}

}  // namespace

Json report_json(const Report& r) {
  return {{"format_version", 2},
          {"title", r.title},
          {"single", r.single},
          {"holds", r.holds},
          {"verdict", verdict_id(r.verdict())},
          {"trusted_key", r.trusted_key},
          {"trusted_auditor", r.trusted_auditor},
          {"files", r.files},
          {"bytes", r.bytes},
          {"signers", r.signers},
          {"artifacts", array(r.artifacts, artifact)},
          {"left_out", r.left_out},
          {"findings", array(r.findings,
                             [](const Finding& f) {
                               return Json{{"severity", f.severity == Severity::failure ? "failure" : "note"},
                                           {"artifact", f.artifact},
                                           {"file", f.file},
                                           {"what", f.what},
                                           {"remedy", f.remedy}};
                             })},
          {"claims",
           array(r.claims,
                 [](const ReportClaim& c) {
                   return Json{
                       {"id", c.id}, {"claim", c.claim}, {"status", status_id(c.status)}, {"how", c.how}, {"command", c.command}};
                 })},
          {"limits", array(r.limits,
                           [](const ReportLimit& l) {
                             return Json{{"trick", l.trick}, {"obstacle", l.obstacle}, {"here", l.here}};
                           })},
          {"origins", array(r.origins,
                            [](const ReportOrigin& o) {
                              return Json{{"artifact", o.artifact},
                                          {"name", o.name},
                                          {"kind", o.kind},
                                          {"teaches", o.teaches},
                                          {"seeded", o.seeded},
                                          {"license", o.seeded ? Json() : license(o.license)}};
                            })},
          {"corpora", array(r.corpora, corpus)},
          {"shipping", array(r.shipping, shipping)},
          {"acknowledged", r.acknowledged},
          {"beacons", r.beacons},
          {"experts", array(r.experts, experts)},
          {"quality", array(r.quality, quality)},
          {"arenas", array(r.arenas, arena)},
          {"recovery", array(r.recoveries, recovery)},
          {"training", array(r.training, training)},
          {"audits", array(r.audits.list, audit)},
          {"audits_not_read", r.audits.not_read},
          {"builders", r.builders}};
}

}  // namespace overproof
