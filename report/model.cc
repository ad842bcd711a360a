#include "report/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "audit/licenses.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "records/router_counts.h"
#include "records/step_log.h"
#include "report/json_values.h"

namespace overproof {
namespace {

using namespace json_values;

constexpr int64_t kMostLog = int64_t{256} << 20;
constexpr size_t kMostExperts = 32, kMostShares = 3;

bool lists_file(const Lineage& lineage, std::string_view name) {
  return std::any_of(lineage.files.begin(), lineage.files.end(), [&](const FileRecord& f) { return f.name == name; });
}

/// Most text first, then by name.
template <class Count>
void sort_by_text(std::vector<Count>& counts, std::string Count::*name) {
  const auto key = [&](const Count& c) { return std::tuple(-c.count.bytes, -c.count.tokens, -c.count.documents, c.*name); };
  std::stable_sort(counts.begin(), counts.end(), [&](const Count& a, const Count& b) { return key(a) < key(b); });
}

/// Which sources an expert's tokens came from, against those of its layer.
ReportExpert expert_of(const RouterCounts& c, int64_t layer, int64_t expert, const std::vector<double>& layer_share) {
  ReportExpert e{layer, expert, c.of_expert(layer, expert), {}};
  for (int64_t s = 0; s < int64_t(c.sources.size()); ++s) {
    if (c.at(s, layer, expert) == 0) continue;
    const double mass = c.mass(s, layer, expert);
    e.sources.push_back(
        {c.sources[size_t(s)], c.at(s, layer, expert), mass, layer_share[size_t(s)] > 0 ? mass / layer_share[size_t(s)] : 0});
  }
  std::stable_sort(e.sources.begin(), e.sources.end(),
                   [](const ReportShare& a, const ReportShare& b) { return a.mass > b.mass; });
  return e;
}

ReportExperts experts_of(const ArtifactNode& node) {
  const RouterCounts c = read_router_counts(node.path);
  ReportExperts all;
  all.artifact = node.name;
  all.layers = c.layers;
  all.experts = c.experts;
  all.tokens = c.all_tokens();
  for (size_t s = 0; s < c.sources.size(); ++s) all.sources.push_back({c.sources[s], {0, 0, c.tokens[s]}});
  std::stable_sort(all.sources.begin(), all.sources.end(),
                   [](const SourceCount& a, const SourceCount& b) { return a.count.tokens > b.count.tokens; });
  for (int64_t l = 0; l < c.layers; ++l) {
    throw_if_interrupted();
    std::vector<double> share;
    double sum = 0;
    for (int64_t s = 0; s < int64_t(c.sources.size()); ++s) sum += double(c.of_source(s, l));
    for (int64_t s = 0; s < int64_t(c.sources.size()); ++s) share.push_back(sum > 0 ? double(c.of_source(s, l)) / sum : 0);
    std::vector<std::pair<double, ReportExpert>> experts;  // by total variation from the layer's mixture
    for (int64_t e = 0; e < c.experts; ++e) {
      double far = 0;
      for (int64_t s = 0; s < int64_t(c.sources.size()); ++s) far += std::abs(c.mass(s, l, e) - share[size_t(s)]) / 2;
      experts.emplace_back(c.of_expert(l, e) > 0 ? far : -1, expert_of(c, l, e, share));
    }
    if (experts.size() > kMostExperts) {
      std::stable_sort(experts.begin(), experts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
      all.left_out = int64_t(experts.size() - kMostExperts);
      experts.resize(kMostExperts);
    }
    all.layer.emplace_back();
    for (auto& [far, expert] : experts) {
      if (expert.sources.size() > kMostShares) expert.sources.resize(kMostShares);
      all.layer.back().push_back(std::move(expert));
    }
  }
  return all;
}

ReportTraining training_of(const ArtifactNode& node) {
  ReportTraining training;
  training.artifact = node.name;
  if (lists_file(*node.lineage(), kStepLogFile)) {
    try {
      StepCurves curves = parse_step_log(read_file(node.path / kStepLogFile, kMostLog), kStepLogFile);
      training.losses = std::move(curves.losses);
      training.balance = {std::move(curves.balance)};
    } catch (const FormatError& e) {
      training.fault = e.what();
    }
  }
  for (const Json& layer : elements(node.lineage()->metrics, "expert_load")) {
    training.loads.emplace_back();
    if (!layer.is_array()) continue;
    for (const Json& value : layer) {
      const double load = value.is_number() ? value.get<double>() : 0;
      training.loads.back().push_back(std::isfinite(load) ? std::max(load, 0.0) : 0);
    }
  }
  return training;
}

ReportRecovery recovery_of(const ArtifactNode& node) {
  const Json& metrics = node.lineage()->metrics;
  ReportRecovery recovery{node.name, {}, texts(metrics, "kept")};
  for (const auto& [key, title] : {std::pair{"error_before", "before"}, {"error", "after"}, {"held_out_error_before", "held out, before"},
                                   {"held_out_error", "held out, after"}}) {
    StepSeries series{title, {}};
    for (const Json& layer : elements(metrics, "layers")) series.values.push_back(number(layer, key).value_or(0));
    recovery.errors.push_back(std::move(series));
  }
  return recovery;
}

class Gatherer {
 public:
  Gatherer(const Verification& v, const LineageFacts& facts, Report& report) : run_(v.run), facts_(facts), report_(report) {
    for (const Finding& f : v.findings)
      if (f.severity == Severity::failure) failed_.insert(f.artifact);
  }

  void artifacts() {
    for (size_t i = 0; i < run_.nodes.size(); ++i) {
      const ArtifactNode& node = run_.nodes[i];
      ReportArtifact a;
      a.name = node.name;
      a.holds = node.check.faults.empty() && !failed_.contains(node.name);
      a.signer = node.check.signer_hint;
      a.story = "Its statement cannot be read.";
      if (!node.check.faults.empty()) report_.left_out.push_back(node.name);
      if (const Lineage* lineage = node.lineage()) {
        a.kind = lineage->kind;
        a.stage = lineage->stage;
        a.root = lineage->root.hex();
        for (const auto& [slot, input] : lineage->inputs) {
          const int parent = node.parents.at(slot);
          a.made_from.emplace_back(slot, parent < 0 ? input.name : run_.nodes[size_t(parent)].name);
          a.parents.push_back(parent);
          if (parent < 0) a.missing.push_back(input.name);
        }
        a.story = node.kind() ? lineage_sentence(*node.kind(), a.made_from)
                              : "Signed by another tool; what it was made from is unknown.";
        a.files = int64_t(lineage->files.size());
        for (const FileRecord& file : lineage->files) a.bytes += std::max<int64_t>(file.bytes, 0);
      }
      if (const ArtifactFacts* facts = facts_.find(node.name)) {
        a.ffn_activation = facts->ffn_activation;
        a.is_end = facts->is_end && a.is_model();
        a.recorded = facts->recorded;
      }
      report_.artifacts.push_back(std::move(a));
    }
  }

  void contents() {
    for (const LeftOut& l : facts_.left_out)
      if (const ArtifactNode& node = run_.nodes[size_t(l.node)]; node.check.faults.empty() && node.lineage())
        note(node.name, "", l.why);
    for (const auto& [program, versions] : facts_.builders)
      report_.builders[program] = fmt::format("{}", fmt::join(versions, ", "));
    for (const ArtifactFacts& a : facts_.artifacts) {
      throw_if_interrupted();
      if (a.kind && a.kind->origin != Origin::inputs)
        report_.origins.push_back({a.name, a.title, std::string(a.kind->name), teaches(a), report_license(a.license)});
      if (a.corpus) {
        report_.corpora.push_back({a.name, *a.corpus});
        sort_by_text(report_.corpora.back().facts.licenses, &LicenseCount::recorded);
        sort_by_text(report_.corpora.back().facts.sources, &SourceCount::name);
      }
      if (a.evaluation) report_.quality.push_back({a.name, *a.evaluation});
      if (!a.order_beacon.empty()) report_.beacons.push_back(a.order_beacon);
      if (a.taught_tokens) report_.taught_tokens = report_.taught_tokens.value_or(0) + *a.taught_tokens;
      for (const std::string& terms : a.acknowledged) report_.acknowledged.push_back(fmt::format("{}: {}", a.name, terms));
      if (ReportTraining training = training_of(facts_.node(a));
          !training.losses.empty() || !training.loads.empty() || !training.fault.empty())
        report_.training.push_back(std::move(training));
      if (a.kind && a.kind->name == "recovered-from") report_.recoveries.push_back(recovery_of(facts_.node(a)));
      if (!lists_file(facts_.lineage(a), kRouterCountsFile)) continue;
      try {
        report_.experts.push_back(experts_of(facts_.node(a)));
      } catch (const FormatError&) {
        note(a.name, kRouterCountsFile, "cannot be read as router counts, so the report leaves it out");
      }
    }
  }

 private:
  bool teaches(const ArtifactFacts& model) const {
    return std::any_of(facts_.artifacts.begin(), facts_.artifacts.end(),
                       [&](const ArtifactFacts& a) { return facts_.taught_by(a, model); });
  }
  void note(const std::string& artifact, const std::string& file, std::string what) {
    // A message names the whole path; the report is about no machine.
    const std::string path = (run_.single ? run_.path.parent_path() : run_.path).string() + "/";
    for (size_t at; (at = what.find(path)) != std::string::npos;) what.erase(at, path.size());
    report_.findings.push_back({Severity::note, artifact, file, std::move(what), ""});
  }

  const RunFolder& run_;
  const LineageFacts& facts_;
  Report& report_;
  std::set<std::string> failed_;
};

}  // namespace

std::string_view status_id(ClaimStatus status) {
  static constexpr std::string_view kIds[kClaimStatuses] = {"proved",   "sampled",   "audited", "estimated",
                                                            "recorded", "unchecked", "failed"};
  return kIds[size_t(status)];
}

std::string_view status_name(ClaimStatus status) {
  static constexpr std::string_view kNames[kClaimStatuses] = {"proved",        "proved by sample", "proved by audit", "estimated",
                                                              "only recorded", "not checked",      "does not hold"};
  return kNames[size_t(status)];
}

std::string_view status_meaning(ClaimStatus status) {
  static constexpr std::string_view kMeanings[kClaimStatuses] = {
      "Follows from digests and signatures that were checked while this report was made.",
      "The auditor whose key the reader named signed that a randomly drawn part was repeated with the same result. Parts that "
      "were "
      "not drawn are covered by the stated probability only.",
      "The auditor whose key the reader named signed that all of it was repeated with the same result.",
      "A statistic with an error, which is stated.",
      "The signer states it, and no check here shows it. A record signed by an auditor whom the reader did not name counts as "
      "such a statement, too.",
      "Can be checked, but no record here shows that it was.",
      "Was checked, and is not true."};
  return kMeanings[size_t(status)];
}

ReportLicense report_license(const std::string& recorded) {
  const LicenseExpression expression = parse_license(recorded);
  const std::vector<std::string> ids = expression.ids();
  ReportLicense license{recorded.empty() ? "unspecified" : recorded,
                        expression.text(),
                        {},
                        !ids.empty(),
                        expression.kind == LicenseExpression::Kind::any_of};
  for (int d = 0; d < kDuties; ++d)
    if (std::any_of(ids.begin(), ids.end(), [&](const auto& id) { return find_license(id) && find_license(id)->has(Duty(d)); }))
      license.duties.emplace_back(duty_name(Duty(d)));
  for (const std::string& id : ids) license.known = license.known && find_license(id);
  return license;
}

Report gather_report(const Verification& v, const ReportTrust& trust) {
  Report report;
  report.title = v.run.path.filename().string();
  report.single = v.run.single;
  report.holds = v.holds();
  report.trusted_key = trust.signer;
  report.trusted_auditor = trust.auditor.has_value();
  report.files = v.files;
  report.bytes = v.bytes;
  report.signers = v.signers;
  report.findings = v.findings;
  report.not_signed = v.run.unsigned_folders;
  for (const ArtifactNode& node : v.run.nodes)
    if (!node.check.signatures_hold) report.not_signed.push_back(node.name);
  const LineageFacts facts = collect_facts(v.run, {.tolerate_faults = true, .tolerate_subject = true, .audits = true});
  Gatherer gatherer(v, facts, report);
  gatherer.artifacts();
  gatherer.contents();
  report.audits = report_audits(facts, v.signers, trust.auditor ? &*trust.auditor : nullptr);
  judge_claims(report);
  return report;
}

}  // namespace overproof
