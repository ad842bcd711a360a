#include "audit/report_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "audit/licenses.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "records/router_counts.h"
#include "records/step_log.h"

namespace overproof {
namespace {

constexpr int64_t kMostJson = int64_t{16} << 20, kMostLog = int64_t{256} << 20;
constexpr size_t kMostExperts = 32, kMostShares = 3;

/// Any JSON in a run may lack what is looked for: a report shows what is there.
const Json& member(const Json& object, const char* name) {
  static const Json nothing;
  return object.is_object() && object.contains(name) ? object[name] : nothing;
}

std::optional<double> number(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
  return value.get<double>();
}

std::string text(const Json& object, const char* name) {
  const Json& value = member(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

/// Whole, not negative, and small enough that a sum over a report's rows cannot overflow.
int64_t count(const Json& object, const char* name) {
  const auto value = number(object, name);
  return value && *value >= 0 && *value < 1e15 ? int64_t(*value) : 0;
}

bool lists_file(const Lineage& lineage, std::string_view name) {
  return std::any_of(lineage.files.begin(), lineage.files.end(), [&](const FileRecord& f) { return f.name == name; });
}

std::optional<Json> signed_json(const ArtifactNode& node, const char* name) {
  if (!lists_file(*node.lineage(), name)) return std::nullopt;
  try {
    return read_json(node.path / name, kMostJson);
  } catch (const FormatError&) {
    return std::nullopt;
  }
}

std::string story_of(const ArtifactNode& node, const std::vector<std::pair<std::string, std::string>>& made_from) {
  if (const LineageKind* kind = node.kind()) return lineage_sentence(*kind, made_from);
  return "Signed by another tool; what it was made from is unknown.";
}

ReportLicense license_of(const std::string& recorded) {
  ReportLicense license;
  license.tally.name = recorded.empty() ? "unspecified" : recorded;
  const LicenseExpression expression = parse_license(recorded);
  license.spdx = expression.text();
  license.choice = expression.kind == LicenseExpression::Kind::any_of;
  const std::vector<std::string> ids = expression.ids();
  license.known = !ids.empty();
  std::set<int> duties;
  for (const std::string& id : ids) {
    const LicenseTerms* terms = find_license(id);
    if (!terms) license.known = false;
    for (int d = 0; terms && d < kDuties; ++d)
      if (terms->has(Duty(d))) duties.insert(d);
  }
  for (const int d : duties) license.duties.emplace_back(duty_name(Duty(d)));
  return license;
}

ReportTally tally_of(const std::string& name, const Json& json) {
  return {name, count(json, "documents"), count(json, "tokens"), count(json, "bytes")};
}

bool more_text(const ReportTally& a, const ReportTally& b) {
  return std::tie(b.bytes, b.tokens, b.documents, a.name) < std::tie(a.bytes, a.tokens, a.documents, b.name);
}

ReportCorpus corpus_of(const ArtifactNode& node) {
  ReportCorpus corpus;
  corpus.artifact = node.name;
  corpus.committed = lists_file(*node.lineage(), "commitment.json");
  const Json licenses = signed_json(node, "licenses.json").value_or(Json::object());
  if (const Json& all = member(licenses, "licenses"); all.is_object())
    for (const auto& [name, value] : all.items()) {
      ReportLicense license = license_of(name);
      license.tally = tally_of(name, value);
      corpus.total.documents += license.tally.documents, corpus.total.tokens += license.tally.tokens,
          corpus.total.bytes += license.tally.bytes;
      corpus.licenses.push_back(std::move(license));
    }
  if (const Json& all = member(licenses, "sources"); all.is_object())
    for (const auto& [name, value] : all.items()) corpus.sources.push_back(tally_of(name, value));
  std::stable_sort(corpus.licenses.begin(), corpus.licenses.end(),
                   [](const auto& a, const auto& b) { return more_text(a.tally, b.tally); });
  std::stable_sort(corpus.sources.begin(), corpus.sources.end(), more_text);
  return corpus;
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
  for (size_t s = 0; s < c.sources.size(); ++s) all.sources.push_back({c.sources[s], 0, c.tokens[s], 0});
  std::stable_sort(all.sources.begin(), all.sources.end(), [](const auto& a, const auto& b) { return a.tokens > b.tokens; });
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

std::optional<ReportQuality> quality_of(const ArtifactNode& node) {
  const auto evaluation = signed_json(node, "evaluation.json");
  if (!evaluation || !member(*evaluation, "models").is_array()) return std::nullopt;
  ReportQuality quality{node.name, number(*evaluation, "tokens"), {}};
  for (const Json& m : (*evaluation)["models"])
    quality.rows.push_back({text(m, "name"), number(m, "perplexity"), number(m, "kl_mean"), number(m, "kl_p99"),
                            number(m, "top1_agreement"), number(m, "ffn_activation"), number(m, "parameter_activation"),
                            number(m, "bytes")});
  return quality;
}

ReportTraining training_of(const ArtifactNode& node) {
  ReportTraining training;
  training.artifact = node.name;
  if (lists_file(*node.lineage(), kStepLogFile)) {
    try {
      const StepCurves curves = parse_step_log(read_file(node.path / kStepLogFile, kMostLog), kStepLogFile);
      for (const StepSeries& s : curves.losses) training.losses.push_back({s.name, s.values});
      training.balance = {{curves.balance.name, curves.balance.values}};
    } catch (const FormatError& e) {
      training.losses.clear(), training.balance.clear();
      training.fault = e.what();
    }
  }
  if (const Json& loads = member(node.lineage()->metrics, "expert_load"); loads.is_array())
    for (const Json& layer : loads) {
      training.loads.emplace_back();
      if (layer.is_array())
        for (const Json& value : layer)
          training.loads.back().push_back(
              value.is_number() && std::isfinite(value.get<double>()) ? std::max(value.get<double>(), 0.0) : 0.0);
    }
  return training;
}

class Gatherer {
 public:
  Gatherer(const Verification& v, Report& report) : run_(v.run), report_(report) {
    for (const Finding& f : v.findings)
      if (f.severity == Severity::failure) failed_.insert(f.artifact);
    for (const ArtifactNode& node : run_.nodes)
      for (const auto& [slot, parent] : node.parents)
        if (parent >= 0 && node.kind() && node.kind()->role != Role::evaluation) used_.insert(parent);
  }

  void artifact(size_t index) {
    const ArtifactNode& node = run_.nodes[index];
    ReportArtifact a;
    a.name = node.name;
    a.holds = node.check.faults.empty() && !failed_.contains(node.name);
    a.signer = node.check.signer_hint;
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
      a.story = story_of(node, a.made_from);
      a.files = int64_t(lineage->files.size());
      for (const FileRecord& file : lineage->files) a.bytes += std::max<int64_t>(file.bytes, 0);
      a.ffn_activation = number(lineage->metrics, "ffn_activation");
      a.is_model = node.kind() && node.kind()->is_model();
      a.is_end = a.is_model && !used_.contains(int(index));
      for (const auto& [name, version] : lineage->builder) {
        std::set<std::string>& all = versions_[name];
        all.insert(version);
      }
    } else {
      a.story = "Its statement cannot be read.";
    }
    report_.artifacts.push_back(std::move(a));
    if (node.lineage() && node.check.faults.empty()) content(node);
  }

  void finish() {
    for (const auto& [name, all] : versions_)
      for (const std::string& version : all) report_.builders[name] += (report_.builders[name].empty() ? "" : ", ") + version;
    for (ReportOrigin& origin : report_.origins)
      for (const ArtifactNode& node : run_.nodes)
        if (node.kind() && node.kind()->role == Role::targets)
          if (const auto teacher = node.parents.find("teacher"); teacher != node.parents.end() && teacher->second >= 0)
            origin.teaches |= run_.nodes[size_t(teacher->second)].name == origin.artifact;
  }

 private:
  void content(const ArtifactNode& node) {
    throw_if_interrupted();
    const Lineage& lineage = *node.lineage();
    const Role role = node.kind() ? node.kind()->role : Role::unknown;
    if (node.kind() && node.kind()->origin != Origin::inputs) {
      ReportOrigin origin{node.name, text(lineage.config, "name"), lineage.kind, false,
                          license_of(text(lineage.config, "license"))};
      if (origin.name.empty()) origin.name = node.name;
      report_.origins.push_back(std::move(origin));
    }
    if (role == Role::corpus) report_.corpora.push_back(corpus_of(node));
    if (const std::string beacon = text(lineage.config, "order-beacon"); role == Role::targets && !beacon.empty())
      report_.beacons.push_back(beacon);
    if (role == Role::targets)
      for (const auto& [name, sum] : {std::pair{"tokens", &report_.taught_tokens}, std::pair{"windows", &report_.taught_windows}})
        if (number(lineage.metrics, name)) *sum = sum->value_or(0) + count(lineage.metrics, name);
    if (role == Role::evaluation)
      if (auto quality = quality_of(node)) report_.quality.push_back(std::move(*quality));
    if (const Json& items = member(member(lineage.metrics, "policy"), "items"); items.is_array())
      for (const Json& item : items)
        if (text(item, "state") == "acknowledged")
          report_.acknowledged.push_back(fmt::format("{}: {}", node.name, text(item, "name")));
    if (ReportTraining training = training_of(node);
        !training.losses.empty() || !training.loads.empty() || !training.fault.empty())
      report_.training.push_back(std::move(training));
    if (lists_file(lineage, kRouterCountsFile)) {
      try {
        report_.experts.push_back(experts_of(node));
      } catch (const FormatError& e) {
        report_.findings.push_back({Severity::note, node.name, kRouterCountsFile,
                                    "is not what router counts look like, so the report leaves it out", ""});
      }
    }
  }

  const RunFolder& run_;
  Report& report_;
  std::set<std::string> failed_;
  std::set<int> used_;
  std::map<std::string, std::set<std::string>> versions_;
};

}  // namespace

std::string_view standing_name(Standing standing) {
  static constexpr std::string_view kNames[kStandings] = {"proved",        "proved by sample", "proved by audit", "estimated",
                                                          "only recorded", "not checked",      "does not hold"};
  return kNames[size_t(standing)];
}

std::string_view standing_meaning(Standing standing) {
  static constexpr std::string_view kMeanings[kStandings] = {
      "Follows from digests and signatures that were checked while this report was made.",
      "A record signed by the auditor whose key the reader named says that a part, drawn by chance, was made again and came out "
      "the same. What was not "
      "drawn is covered only by odds.",
      "A record signed by the auditor whose key the reader named says that all of it was made again and came out the same.",
      "A statistic, with an error that is stated.",
      "Whoever signed says so. Nothing here can show it; an auditor's record by a key that the reader did not name is no more "
      "than this.",
      "Could be checked, and nothing here says that anybody did.",
      "Was checked, and is not so."};
  return kMeanings[size_t(standing)];
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
  Gatherer gatherer(v, report);
  for (size_t i = 0; i < v.run.nodes.size(); ++i) gatherer.artifact(i);
  gatherer.finish();
  report.audits = read_report_audits(v.run, v.signers, trust.auditor ? &*trust.auditor : nullptr);
  judge_claims(report);
  return report;
}

}  // namespace overproof
