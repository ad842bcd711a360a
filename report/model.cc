#include "report/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "audit/licenses.h"
#include "audit/reached.h"
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
  double apart = 0, routed = 0;
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
      apart += far * double(c.of_expert(l, e)), routed += double(c.of_expert(l, e));
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
  if (routed > 0) all.apart = apart / routed;
  return all;
}

/// Leaves what was computed: a log of version 1 has zeros for a term that the loss does not have, and a loss of one term is that
/// term; without experts there is nothing to balance.
void keep_computed(ReportTraining& training) {
  const auto all = [](const StepSeries& s, double value) {
    return std::ranges::all_of(s.values, [&](double v) { return v == value || std::isnan(v); });
  };
  std::vector<StepSeries>& losses = training.losses;
  if (losses.empty()) return;
  for (size_t i = losses.size(); i-- > 1;) {
    const bool same = std::ranges::equal(losses[i].values, losses[0].values,
                                         [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); });
    if (same && !all(losses[i], 0)) training.only_term = losses[i].name;
    if (same || all(losses[i], 0)) losses.erase(losses.begin() + ptrdiff_t(i));
  }
  if (training.loads.empty() && !training.balance.empty() && all(training.balance[0], 1)) training.balance.clear();
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
  keep_computed(training);
  return training;
}

ReportRecovery recovery_of(const ArtifactNode& node) {
  const Json& metrics = node.lineage()->metrics;
  ReportRecovery recovery{node.name, {}, texts(metrics, "kept")};
  for (const auto& [key, title] : {std::pair{"error_before", "before"}, {"error", "after"}, {"held_out_error_before", "held out, before"},
                                   {"held_out_error", "held out, after"}}) {
    StepSeries series{title, {}};
    for (const Json& layer : elements(metrics, "layers")) series.values.push_back(number(layer, key).value_or(NAN));
    if (std::ranges::any_of(series.values, [](double v) { return std::isfinite(v); })) recovery.errors.push_back(std::move(series));
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
        for (const FileRecord& file : lineage->files) {
          a.bytes += std::max<int64_t>(file.bytes, 0);
          a.has_step_records |= file.name == kStepRecordsFile;
        }
      }
      if (const ArtifactFacts* facts = facts_.find(node.name)) {
        a.ffn_activation = facts->ffn_activation;
        a.parameters = facts->parameters;
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
        report_.origins.push_back({a.name, a.title, std::string(a.kind->name), teaches(a), a.kind->origin == Origin::seed, report_license(a.license)});
      if (a.corpus) {
        std::vector<int> all(run_.nodes.size());
        std::iota(all.begin(), all.end(), 0);
        report_.corpora.push_back({a.name, *a.corpus, reached(all, a)});
        sort_by_text(report_.corpora.back().facts.licenses, &LicenseCount::recorded);
        sort_by_text(report_.corpora.back().facts.sources, &SourceCount::name);
      }
      if (a.evaluation) report_.quality.push_back({a.name, *a.evaluation});
      if (a.arena) report_.arenas.push_back({a.name, *a.arena});
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

  /// What the built-in policy requires of each final model. Those with the same terms are one entry.
  void shipping() {
    for (const ArtifactFacts& a : facts_.artifacts) {
      if (!a.is_end || a.role != Role::model || !a.kind || a.kind->origin != Origin::inputs) continue;
      throw_if_interrupted();
      const Json& config = facts_.lineage(a).config;
      const bool named = config.is_object() && config.contains("name") && config["name"].is_string();
      const PolicyVerdict verdict =
          judge(facts_, &a, default_policy(), {named ? config["name"].get<std::string>() : "", a.acknowledged});
      ReportShipping entry{{a.name}, {}, !ancestors_missing(facts_, a)};
      const std::vector<int> family = run_.ancestors_of(a.node);
      for (const PolicyItem& item : verdict.items) entry.terms.push_back(term_of(item, family));
      const auto same = std::ranges::find_if(report_.shipping, [&](const ReportShipping& s) {
        return s.complete == entry.complete && std::ranges::equal(s.terms, entry.terms, [](const ReportTerm& x, const ReportTerm& y) {
                 return x.item.name == y.item.name && x.item.state == y.item.state && x.item.from == y.item.from &&
                        x.documents == y.documents && x.reached == y.reached;
               });
      });
      if (same == report_.shipping.end()) report_.shipping.push_back(std::move(entry));
      else same->models.push_back(a.name);
    }
  }

 private:
  using Counts = std::map<std::string, int64_t>;

  ReportTerm term_of(const PolicyItem& item, const std::vector<int>& family) {
    ReportTerm term{item, {}, {}};
    bool known = true;
    int64_t reached_documents = 0;
    for (const ArtifactFacts& c : facts_.artifacts) {
      if (!c.corpus || !std::ranges::count(family, c.node)) continue;
      const std::optional<Counts> counts = reached(family, c);
      known = known && counts;
      for (const LicenseCount& l : c.corpus->licenses) {
        const std::vector<std::string> ids = l.license.ids();
        if (l.license.text() != "NOASSERTION" ? !std::ranges::count(ids, item.name) : item.name != "unspecified") continue;
        Tally sum{term.documents.value_or(0), 0, 0};
        sum.add(l.count);
        term.documents = sum.documents;
        if (const auto found = counts ? counts->find(l.recorded) : Counts::const_iterator(); counts && found != counts->end())
          reached_documents += found->second;
      }
    }
    if (term.documents && known) term.reached = reached_documents;
    return term;
  }

  /// The same counts are asked for each final model and each term; they depend on the artifacts of the family that drew windows.
  std::optional<Counts> reached(const std::vector<int>& family, const ArtifactFacts& corpus) {
    std::vector<int> readers = {corpus.node};
    for (const int i : family)
      if (const LineageKind* kind = run_.nodes[size_t(i)].kind(); kind && kind->is_model() && kind->draw != WindowDraw::none) {
        if (failed_.contains(run_.nodes[size_t(i)].name)) return std::nullopt;
        readers.push_back(i);
      }
    const auto [found, is_new] = reached_.try_emplace(readers);
    if (!is_new) return found->second;
    try {
      found->second = documents_reached(run_, family, facts_.node(corpus));
    } catch (const FormatError&) {
    } catch (const ProvenanceError&) {
    } catch (const IoError&) {
    }
    return found->second;
  }

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
  std::map<std::vector<int>, std::optional<Counts>> reached_;  ///< by corpus and readers
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

std::vector<std::string> ReportShipping::with(PolicyState state) const {
  std::vector<std::string> names;
  for (const ReportTerm& t : terms)
    if (t.item.state == state) names.push_back(t.item.name);
  return names;
}

std::string_view verdict_id(Verdict verdict) {
  static constexpr std::string_view kIds[] = {"holds", "open", "fails"};
  return kIds[size_t(verdict)];
}

int64_t Report::claims_with(ClaimStatus status) const {
  return std::ranges::count(claims, status, &ReportClaim::status);
}

Verdict Report::verdict() const {
  if (!holds || claims_with(ClaimStatus::failed) > 0) return Verdict::fails;
  return claims_with(ClaimStatus::unchecked) > 0 ? Verdict::open : Verdict::holds;
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
  gatherer.shipping();
  report.audits = report_audits(facts, v.signers, trust.auditor ? &*trust.auditor : nullptr);
  judge_claims(report);
  return report;
}

}  // namespace overproof
