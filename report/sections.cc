// The sections on lineage, licences, sources, experts, quality and training.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "audit/licenses.h"
#include "report/drawings.h"
#include "report/view.h"

namespace overproof {
namespace {

void add_figure(Section& s, const std::string& title, const std::string& description, const std::optional<View>& drawing) {
  if (drawing) s.figure(title, description, *drawing);
  else s.quiet(title + ": too large to draw.");
}

Section lineage(const Report& r) {
  Section s("lineage", "Lineage");
  add_figure(
      s, "What was made from what",
      "Artifacts as boxes, from the inputs from outside at the top to the last results at the bottom. The table below has the "
      "same content.",
      lineage_drawing(r.artifacts));
  Table table("Artifacts, parents before children", {"artifact", "content", "made from", "size", "identity (sha256)"});
  Table roots("Roots in full", {"artifact", "root"});
  for (const ReportArtifact& a : r.artifacts) {
    std::string from;
    for (const auto& [slot, parent] : a.made_from)
      from += fmt::format("{}‘{}’{}", from.empty() ? "" : ", ", parent, slot == parent ? "" : " as " + slot);
    for (const std::string& input : a.missing) from += fmt::format(" (‘{}’ is not here)", input);
    table.add({name(a.name), a.holds ? Phrase(a.story) : badge(ClaimStatus::failed) + (" " + a.story), from.empty() ? "–" : from,
               fmt::format("{}, {}", bytes_text(double(a.bytes)), plural(a.files, "file")), key_hint(a.root)});
    if (!a.root.empty()) roots.add({name(a.name), code("sha256:" + a.root)});
  }
  s.table(table, "overproof audit verify RUN --json");
  s.folded("Identities in full, to compare with another copy", roots, "overproof audit verify RUN --json");
  return s;
}

std::string duties_of(const ReportLicense& license) {
  if (license.spdx == "NOASSERTION") return "unknown: no licence was recorded";
  std::string all = fmt::format("{}", fmt::join(license.duties, ", "));
  if (license.choice && !all.empty()) all += " (of the licence that is chosen)";
  if (!license.known) return all + (all.empty() ? "" : "; ") + "not in the table: read its text";
  return all.empty() ? "none" : all;
}

Section licences(const Report& r) {
  Section s("licences", "Licences and their conditions");
  std::set<std::string> duties;
  Table models("Models from outside", {"model", "artifact", "part", "licence as recorded", "conditions"});
  for (const ReportOrigin& o : r.origins) {
    const bool seeded = find_lineage_kind(o.kind) && find_lineage_kind(o.kind)->origin == Origin::seed;
    duties.insert(o.license.duties.begin(), o.license.duties.end());
    models.add({name(o.name), name(o.artifact), o.teaches ? "teacher" : "ancestor",
                seeded ? "none: drawn from a seed" : name(o.license.recorded), seeded ? "none" : duties_of(o.license)});
  }
  s.table(models);
  for (const ReportCorpus& c : r.corpora) {
    Table table(fmt::format("Documents of ‘{}’ by licence", c.artifact),
                {"licence as recorded", "SPDX", number("documents"), number("tokens"), number("share of text"), "conditions"});
    for (const LicenseCount& l : c.facts.licenses) {
      const ReportLicense license = report_license(l.recorded);
      duties.insert(license.duties.begin(), license.duties.end());
      table.add({name(license.recorded), name(license.spdx), grouped(l.count.documents), grouped(l.count.tokens),
                 bar_of(l.count.bytes, c.facts.total.bytes), duties_of(license)});
    }
    s.table(table, "licenses.json of the corpus");
  }
  Table meanings("Conditions", {"condition", "meaning", "also for models trained on outputs"});
  for (int d = 0; d < kDuties; ++d)
    if (const std::string duty(duty_name(Duty(d))); duties.contains(duty))
      meanings.add({duty, std::string(duty_meaning(Duty(d))), duty_follows_output(Duty(d)) ? "yes" : "no"});
  s.table(meanings);
  s.list("Acknowledged by name when a model was exported, and signed:", r.acknowledged);
  if (!s.empty())
    s.quiet(
        "Not legal advice: this lists clauses to read, not whether they are met. Whether the licence of a training document "
        "applies to a model's weights is not settled.");
  return s;
}

Section sources(const Report& r) {
  Section s("sources", "Documents by source");
  for (const ReportCorpus& c : r.corpora) {
    Table table(fmt::format("Documents of ‘{}’ by source", c.artifact),
                {"source", number("documents"), number("tokens"), number("size"), number("share of text")});
    for (const SourceCount& t : c.facts.sources)
      table.add({name(t.name), grouped(t.count.documents), grouped(t.count.tokens), bytes_text(double(t.count.bytes)),
                 bar_of(t.count.bytes, c.facts.total.bytes)});
    if (table.rows() <= 24) s.table(table);
    else s.folded(plural(int64_t(table.rows()), "source"), table, "licenses.json of the corpus");
  }
  return s;
}

void add_experts(Section& s, const ReportExperts& e) {
  s.heading(name(e.artifact));
  Table sources(fmt::format("Tokens that ‘{}’ was trained on", e.artifact), {"source", number("tokens"), number("share")});
  for (const SourceCount& t : e.sources) sources.add({name(t.name), grouped(t.count.tokens), bar_of(t.count.tokens, e.tokens)});
  s.table(sources, "overproof audit impact RUN --json");

  std::vector<std::pair<const ReportExpert*, const ReportShare*>> sided;
  for (const auto& layer : e.layer)
    for (const ReportExpert& expert : layer)
      for (const ReportShare& share : expert.sources)
        if (share.lift > 1) sided.emplace_back(&expert, &share);
  const auto excess = [](const ReportShare& share) { return share.mass - share.mass / share.lift; };
  std::stable_sort(sided.begin(), sided.end(),
                   [&](const auto& a, const auto& b) { return excess(*a.second) > excess(*b.second); });
  Table top(fmt::format("‘{}’: the experts with the largest excess of one source", e.artifact),
            {"expert", "source", number("tokens from it"), number("share of the expert's tokens"), number("lift")});
  for (size_t i = 0; i < std::min<size_t>(sided.size(), 10); ++i) {
    const auto& [expert, share] = sided[i];
    top.add({fmt::format("layer {}, expert {}", expert->layer, expert->expert), name(share->source), grouped(share->tokens),
             bar(share->mass), fmt::format("{:.2f}", share->lift)});
  }
  s.table(top);

  for (const auto& layer : e.layer) {
    if (layer.empty()) continue;
    const std::string title = fmt::format("‘{}’, layer {}", e.artifact, layer.front().layer);
    Table table(title + ": the first sources of each expert", {"expert", number("tokens"), "first source", number("share"),
                                                               "second", number("share"), "third", number("share")});
    for (const ReportExpert& expert : layer) {
      std::vector<Phrase> row = {std::to_string(expert.expert), grouped(expert.tokens)};
      for (size_t i = 0; i < 3; ++i) {
        const bool given = i < expert.sources.size();
        row.push_back(given ? name(expert.sources[i].source) : "–");
        row.push_back(given ? bar(expert.sources[i].mass) : "–");
      }
      table.add(std::move(row));
    }
    s.fold(title);
    s.table(table);
    if (e.left_out > 0)
      s.quiet(
          fmt::format("The {} that differ most from their layer; {} more are left out. One expert: ", layer.size(), e.left_out) +
          code("overproof audit impact RUN --expert LAYER:EXPERT") + ".");
    s.unfold();
  }
}

Section experts(const Report& r) {
  Section s("experts", "Experts by source");
  if (r.experts.empty()) {
    if (std::any_of(r.artifacts.begin(), r.artifacts.end(), [](const auto& a) { return a.row() && a.row()->trains; }))
      s.quiet("No artifact here counted which experts received the tokens of each source.");
    return s;
  }
  s.paragraph(
      "Number of tokens of each source that the routers sent to each expert during training. Lift is an expert's share of a "
      "source divided by the share of the whole layer: 1 means that the router treats the source like the others.");
  for (const ReportExperts& e : r.experts) add_experts(s, e);
  return s;
}

Section quality(const Report& r) {
  Section s("quality", "Quality");
  for (const ReportQuality& q : r.quality) {
    Table table(fmt::format("Measurements in ‘{}’", q.artifact),
                {"model", number("perplexity"), number("mean KL to teacher"), number("99 % KL"), number("top-1 agreement"),
                 number("FFN activation"), number("parameter activation"), number("size"), number("size / teacher in bf16")});
    // The teacher is the first row. Its own file may have any number of bits; its users have it in bf16.
    const std::optional<double> parameters = q.facts.models.empty() ? std::nullopt : q.facts.models.front().parameters;
    const double teacher_bf16 = 2 * parameters.value_or(0);
    std::vector<std::string> larger;
    for (const EvaluatedModel& model : q.facts.models) {
      const auto value = [](const std::optional<double>& v, const auto& text) { return Phrase(v ? text(*v) : "–"); };
      const auto fixed = [](int digits) { return [digits](double v) { return fmt::format("{:.{}f}", v, digits); }; };
      // The maker chose the name of the slot: any model may be in it.
      const Phrase called = model.bound.empty() || model.bound == model.name
                                ? name(model.name)
                                : name(model.name) + Phrase(", which is ") + name(model.bound);
      table.add({called, value(model.perplexity, fixed(3)), value(model.kl_mean, fixed(4)),
                 value(model.kl_p99, fixed(3)), value(model.top1_agreement, percent), value(model.ffn_activation, percent),
                 value(model.parameter_activation, percent), value(model.bytes, bytes_text),
                 value(teacher_bf16 > 0 ? model.bytes : std::nullopt,
                       [&](double b) { return fmt::format("{:.2f}", b / teacher_bf16); })});
      if (teacher_bf16 > 0 && &model != &q.facts.models.front() && model.bytes.value_or(0) > teacher_bf16)
        larger.push_back(model.name);
    }
    s.table(table, "evaluation.json of the artifact");
    if (!larger.empty())
      s.paragraph(fmt::format("Larger than the teacher in bf16 ({}): {}.", bytes_text(teacher_bf16), fmt::join(larger, ", ")));
    if (q.facts.tokens)
      s.quiet(fmt::format("Measured on {:.0f} held-out tokens; KL in nats per token. Lower perplexity and KL are better.",
                          *q.facts.tokens));
  }
  return s;
}

void add_loads(Section& s, const ReportTraining& t) {
  size_t experts = 0, at_layer = 0, at_expert = 0;
  double most = 0;
  for (size_t l = 0; l < t.loads.size(); ++l) {
    experts = std::max(experts, t.loads[l].size());
    double sum = 0;
    for (const double v : t.loads[l]) sum += v;
    for (size_t e = 0; e < t.loads[l].size(); ++e)
      if (const double load = t.loads[l][e] / (sum / double(t.loads[l].size())); sum > 0 && load > most)
        most = load, at_layer = l, at_expert = e;
  }
  if (experts > 0)
    add_figure(
        s, fmt::format("{}: expert load by layer", t.artifact),
        fmt::format("{} layers, {} experts. Darker cells have more tokens; full colour is twice the mean of the layer. The "
                    "largest load is that of expert {} in layer {}, {:.2f} times the mean.",
                    t.loads.size(), experts, at_expert, at_layer, most),
        loads_drawing(t.loads));
}

Section recovery(const Report& r) {
  Section s("recovery", "Recovery");
  for (const ReportRecovery& e : r.recoveries) {
    s.heading(name(e.artifact));
    const size_t layers = e.errors.empty() ? 0 : e.errors.front().values.size();
    std::vector<Column> columns = {"layer"};
    for (const StepSeries& one : e.errors) columns.push_back(number(one.name.c_str()));
    Table table(fmt::format("Errors of the FFN outputs in ‘{}’", e.artifact), columns);
    for (size_t l = 0; l < layers; ++l) {
      std::vector<Phrase> row = {std::to_string(l)};
      for (const StepSeries& one : e.errors) row.push_back(fmt::format("{:.4f}", one.values.at(l)));
      table.add(std::move(row));
    }
    add_figure(s, fmt::format("{}: error of each layer's FFN output, relative to its square", e.artifact),
               fmt::format("{} layers, before and after the solve, on the tokens that were solved on and on held-out ones.", layers),
               lines_drawing(e.errors));
    s.folded(fmt::format("‘{}’ by layer", e.artifact), table);
    s.list("Experts with too few tokens, which keep their weights", e.kept);
  }
  return s;
}

Section training(const Report& r) {
  Section s("training", "Training");
  for (const ReportTraining& t : r.training) {
    s.heading(name(t.artifact));
    if (!t.fault.empty()) s.paragraph(t.fault);
    Table table(fmt::format("‘{}’ in numbers", t.artifact),
                {"series", number("first"), number("least"), number("last"), number("steps")});
    for (const auto& [group, title] :
         {std::pair{&t.losses, "losses, nats per token"}, std::pair{&t.balance, "largest expert load over the mean"}}) {
      std::string told;
      for (const StepSeries& one : *group) {
        std::vector<double> values;
        std::copy_if(one.values.begin(), one.values.end(), std::back_inserter(values), [](double v) { return std::isfinite(v); });
        if (values.empty()) continue;
        told += fmt::format("{}{} from {:.4g} to {:.4g}", told.empty() ? "" : "; ", one.name, values.front(), values.back());
        table.add({name(one.name), fmt::format("{:.4g}", values.front()),
                   fmt::format("{:.4g}", *std::min_element(values.begin(), values.end())), fmt::format("{:.4g}", values.back()),
                   grouped(int64_t(values.size()))});
      }
      if (!told.empty())
        add_figure(s, fmt::format("{}: {}", t.artifact, title), "Over the steps: " + told + ".", lines_drawing(*group));
    }
    s.folded(fmt::format("‘{}’ in numbers", t.artifact), table);
    add_loads(s, t);
  }
  return s;
}

}  // namespace

std::vector<Section> lineage_sections(const Report& r) { return {lineage(r), licences(r), sources(r), experts(r)}; }
std::vector<Section> training_sections(const Report& r) { return {quality(r), recovery(r), training(r)}; }

}  // namespace overproof
