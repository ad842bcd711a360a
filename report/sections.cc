// The sections on licences, lineage, sources, quality, recovery, training and experts.

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
      "One artifact a row, each below what it was made from; a line leads from an artifact to everything made from it. Evaluations, "
      "which only measure, have no lines. The table below has the same content.",
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

/// What the built-in policy found for some final models.
void add_terms(Section& s, const ReportShipping& ship) {
  static constexpr const char* kStates[] = {"allowed", "satisfied", "acknowledged", "to read and accept", "denied"};
  Table table("Terms of " + name_list(ship.models) + " under the built-in policy", {"licence or terms", "state", "from", "documents read by training", "requires"});
  for (const PolicyState state : {PolicyState::denied, PolicyState::open, PolicyState::acknowledged, PolicyState::satisfied, PolicyState::allowed})
    for (const ReportTerm& t : ship.terms) {
      if (t.item.state != state) continue;
      std::string from;
      for (const std::string& f : t.item.from) from += (from.empty() ? "" : "; ") + f;
      std::string duties;
      for (const std::string& d : t.item.duties) duties += (duties.empty() ? "" : "; ") + d;
      if (duties.empty())
        duties = t.item.name == "unspecified"        ? "no licence was recorded: ask where it comes from"
                 : t.item.name == "unknown-ancestry" ? "what it was made from is not here, or does not hold"
                 : find_license(t.item.name)         ? "nothing in the table"
                                                     : "not in the table: read its text";
      const Phrase called = name(t.item.name);
      table.add({called, state == PolicyState::open || state == PolicyState::denied ? strong(kStates[size_t(state)]) : Phrase(kStates[size_t(state)]), name(from),
                 !t.documents ? "–" : !t.reached ? "not known" : fmt::format("{} of {}", grouped(*t.reached), grouped(*t.documents)), duties});
    }
  s.table(table, "overproof audit policy RUN/ARTIFACT");
}

Section licences(const Report& r) {
  Section s("licences", "Licences and their conditions");
  std::set<std::string> duties;
  for (const ReportShipping& ship : r.shipping) add_terms(s, ship);
  Table models("Models from outside or a seed", {"model", "artifact", "part", "licence as recorded", "conditions"});
  for (const ReportOrigin& o : r.origins) {
    if (!o.seeded) duties.insert(o.license.duties.begin(), o.license.duties.end());
    models.add({name(o.name), name(o.artifact), o.teaches ? "teacher" : "ancestor",
                o.seeded ? "none: drawn from a seed" : name(o.license.recorded), o.seeded ? "none" : duties_of(o.license)});
  }
  s.table(models);
  for (const ReportCorpus& c : r.corpora) {
    Table table(fmt::format("Documents of ‘{}’ by licence", c.artifact),
                {"licence as recorded", "SPDX", number("documents"), number("read by training"), number("tokens"), number("share of text"),
                 "conditions"});
    for (const LicenseCount& l : c.facts.licenses) {
      const ReportLicense license = report_license(l.recorded);
      duties.insert(license.duties.begin(), license.duties.end());
      const auto read = c.reached ? c.reached->find(l.recorded) : std::map<std::string, int64_t>::const_iterator();
      table.add({name(license.recorded), license.spdx == license.recorded ? Phrase("the same") : name(license.spdx),
                 grouped(l.count.documents), !c.reached ? "not known" : grouped(read == c.reached->end() ? 0 : read->second),
                 grouped(l.count.tokens), bar_of(l.count.bytes, c.facts.total.bytes), duties_of(license)});
    }
    s.table(table, "licenses.json of the corpus");
    if (c.reached)
      s.quiet("Read by training: documents of which a training or recovery here read at least one token, computed from the order of training.");
  }
  Table meanings("Conditions", {"condition", "meaning", "its text mentions models trained on outputs"});
  for (int d = 0; d < kDuties; ++d)
    if (const std::string duty(duty_name(Duty(d))); duties.contains(duty))
      meanings.add({duty, std::string(duty_meaning(Duty(d))), duty_follows_output(Duty(d)) ? "yes" : "no; whether it applies is not settled"});
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
  s.paragraph(fmt::format("{} tokens in {} layers of {} experts. The mixture of sources in an expert's tokens differs from its layer's by {} "
                          "of the tokens on average; 0 % would be routers that are blind to sources.",
                          grouped(e.tokens), e.layers, e.experts, percent(e.apart)));
  Table sources(fmt::format("Tokens that ‘{}’ was trained on", e.artifact), {"source", number("tokens"), number("share")});
  for (const SourceCount& t : e.sources) sources.add({name(t.name), grouped(t.count.tokens), bar_of(t.count.tokens, e.tokens)});
  s.folded(fmt::format("‘{}’: tokens of each source", e.artifact), sources, "overproof audit impact RUN --json");

  // A share of a few tokens is chance.
  const int64_t least = std::max<int64_t>(50, e.experts > 0 ? e.tokens / e.experts / 10 : 0);
  std::vector<std::pair<const ReportExpert*, const ReportShare*>> sided;
  for (const auto& layer : e.layer)
    for (const ReportExpert& expert : layer)
      for (const ReportShare& share : expert.sources)
        if (share.lift > 1 && expert.tokens >= least) sided.emplace_back(&expert, &share);
  const auto excess = [](const ReportShare& share) { return share.mass - share.mass / share.lift; };
  std::stable_sort(sided.begin(), sided.end(),
                   [&](const auto& a, const auto& b) { return excess(*a.second) > excess(*b.second); });
  Table top(fmt::format("‘{}’: of the experts with at least {} tokens, those with the largest excess of one source", e.artifact, grouped(least)),
            {"expert", "source", number("tokens from it"), number("share of the expert's tokens"), number("lift")});
  for (size_t i = 0; i < std::min<size_t>(sided.size(), 10); ++i) {
    const auto& [expert, share] = sided[i];
    top.add({fmt::format("layer {}, expert {}", expert->layer, expert->expert), name(share->source), grouped(share->tokens),
             bar(share->mass), fmt::format("{:.2f}", share->lift)});
  }
  s.folded(fmt::format("‘{}’: experts with the largest excess of one source", e.artifact), top);

  s.fold(fmt::format("‘{}’: the first sources of each expert, {}", e.artifact, plural(int64_t(e.layer.size()), "layer")), true);
  for (const auto& layer : e.layer) {
    if (layer.empty()) continue;
    Table table(fmt::format("‘{}’, layer {}: the first sources of each expert", e.artifact, layer.front().layer),
                {"expert", number("tokens"), "first source", number("share"), "second", number("share"), "third", number("share")});
    for (const ReportExpert& expert : layer) {
      std::vector<Phrase> row = {std::to_string(expert.expert), grouped(expert.tokens)};
      for (size_t i = 0; i < 3; ++i) {
        const bool given = i < expert.sources.size();
        row.push_back(given ? name(expert.sources[i].source) : "–");
        row.push_back(given ? bar(expert.sources[i].mass) : "–");
      }
      table.add(std::move(row));
    }
    s.table(table);
    if (e.left_out > 0)
      s.quiet(
          fmt::format("The {} that differ most from their layer; {} more are left out. One expert: ", layer.size(), e.left_out) +
          code("overproof audit impact RUN --expert LAYER:EXPERT") + ".");
  }
  s.unfold();
}

Section experts(const Report& r) {
  Section s("experts", "Experts by source");
  if (r.experts.empty()) return s;
  s.paragraph(
      "Number of tokens of each source that the routers sent to each expert during training. Lift is an expert's share of a "
      "source divided by the share of the whole layer: 1 means that the router treats the source like the others.");
  for (const ReportExperts& e : r.experts) add_experts(s, e);
  return s;
}

/// Multiple-choice tasks of an evaluation.
void add_choices(Section& s, const ReportQuality& q) {
  Table table(fmt::format("Multiple choice in ‘{}’", q.artifact),
              {"model", "task", number("questions"), number("right"), number("right per byte"), number("written")});
  const auto share = [](const std::optional<double>& value, const std::optional<double>& error = {}) -> Phrase {
    if (!value) return "–";
    return fmt::format("{:.1f} %{}", 100 * *value, error ? fmt::format(" ± {:.1f}", 100 * *error) : "");
  };
  for (const EvaluatedModel& model : q.facts.models)
    for (const EvaluationTask& task : model.tasks)
      table.add({name(model.name), name(task.name), task.questions ? Phrase(grouped(*task.questions)) : "–", share(task.acc, task.acc_stderr),
                 share(task.acc_norm, task.acc_norm_stderr), share(task.greedy)});
  if (table.rows() == 0) return;
  s.table(table, "evaluation.json of the artifact");
  s.quiet("Right: the right choice has the largest log-likelihood after the question, with its standard error; per byte: divided by the length of its text; "
          "written: it is what the model writes, the most probable token each time.");
}

/// Ratings by battles of answers.
void add_arena(Section& s, const ReportArena& a) {
  Table table(fmt::format("Ratings in ‘{}’", a.artifact),
              {"model", number("rating"), number("95 % interval"), number("wins"), number("losses"), number("ties")});
  for (const ArenaModel& m : a.facts.models)
    table.add({name(m.name), fmt::format("{:.1f}", m.rating), fmt::format("{:.1f} to {:.1f}", m.low, m.high), grouped(m.wins), grouped(m.losses), grouped(m.ties)});
  s.table(table, "arena.json of the artifact");
  s.quiet(fmt::format("{} prompts; each pair of answers is a battle, judged by {}. Ratings are the maximum-likelihood estimate of Bradley and Terry, a tie half a "
                      "win; {:.0f} points are odds of 10 to 1, the mean is {:.0f}. Intervals are percentiles of {} samples of the prompts.{}{}",
                      a.facts.prompts,
                      a.facts.judge == "openai-url"    ? std::string("a server, which no audit can ask again")
                      : a.facts.judge == "likelihood" ? std::string("the likelihood of each answer by a model")
                                                      : "the judge ‘" + a.facts.judge + "’",
                      a.facts.scale, a.facts.mean, a.facts.draws,
                      a.facts.with_prior ? " The battles have no finite maximum: half a tie was added to each pair." : "",
                      a.facts.not_judged > 0 ? fmt::format(" {} battles have no verdict and count for nothing.", a.facts.not_judged) : ""));
}

Section quality(const Report& r) {
  Section s("quality", "Quality");
  for (const ReportQuality& q : r.quality) {
    Table table(fmt::format("Measurements in ‘{}’", q.artifact),
                {"model", number("perplexity"), number("mean KL to teacher"), number("99 % KL"), number("top-1 agreement"),
                 number("calibration error"), number("answers that loop"), number("with repetition penalty"), number("parameters"), number("FFN activation"), number("parameter activation"), number("size"),
                 number("size / teacher in bf16"), number("weights read a token")});
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
                 value(model.kl_p99, fixed(3)), value(model.top1_agreement, percent), value(model.calibration_error, fixed(4)),
                 value(model.loops, percent), value(model.loops_penalised, percent),
                 value(model.parameters, [](double n) { return fmt::format("{:.1f} M", n / 1e6); }), value(model.ffn_activation, percent),
                 value(model.parameter_activation, percent), value(model.bytes, bytes_text),
                 value(teacher_bf16 > 0 ? model.bytes : std::nullopt,
                       [&](double b) { return fmt::format("{:.2f}", b / teacher_bf16); }),
                 value(model.bytes_per_token, bytes_text)});
      if (teacher_bf16 > 0 && &model != &q.facts.models.front() && model.bytes.value_or(0) > teacher_bf16)
        larger.push_back(model.name);
    }
    s.table(table, "evaluation.json of the artifact");
    add_choices(s, q);
    if (!larger.empty())
      s.paragraph(fmt::format("Larger than the teacher in bf16 ({}): {}.", bytes_text(teacher_bf16), fmt::join(larger, ", ")));
    if (q.facts.tokens)
      s.quiet(fmt::format("Measured on {:.0f} held-out tokens; KL in nats per token. Lower perplexity and KL are better.",
                          *q.facts.tokens) +
              (q.facts.repetition_penalty ? fmt::format(" The answers to fixed prompts are greedy, without and with a repetition penalty of {}.", *q.facts.repetition_penalty) : ""));
  }
  for (const ReportArena& a : r.arenas) add_arena(s, a);
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
      for (const StepSeries& one : e.errors)
        row.push_back(std::isfinite(one.values.at(l)) ? Phrase(fmt::format("{:.4f}", one.values.at(l))) : "–");
      table.add(std::move(row));
    }
    add_figure(s, fmt::format("{}: error of each layer's FFN output, relative to its square", e.artifact),
               fmt::format("{} layers, before and after the solve, on the tokens that were solved on and on held-out ones.", layers),
               lines_drawing(e.errors, "layer"));
    s.folded(fmt::format("‘{}’ by layer", e.artifact), table, {}, true);
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
        add_figure(s, fmt::format("{}: {}", t.artifact, title), 
                   "Over the steps: " + told + "." +
                       (group == &t.losses && !t.only_term.empty() ? fmt::format(" The loss is {} alone.", t.only_term) : ""),
                   lines_drawing(*group));
    }
    add_loads(s, t);  // next to the other drawings: on paper two are in a row
    s.folded(fmt::format("‘{}’ in numbers", t.artifact), table);
  }
  return s;
}

}  // namespace

std::vector<Section> lineage_sections(const Report& r) { return {licences(r), lineage(r), sources(r)}; }
std::vector<Section> training_sections(const Report& r) { return {quality(r), recovery(r), training(r), experts(r)}; }

}  // namespace overproof
