// Which claims about a run are proved, estimated or only recorded, and by which check. A claim must not exceed its check: a check
// shows only what it read.

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "report/model.h"
#include "report/view.h"

namespace overproof {
namespace {


std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (size_t i = 0; i < names.size(); ++i) all += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
  return all;
}

std::string quoted(const std::string& name) { return "‘" + name + "’"; }

std::vector<std::string> quoted_all(const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) all.push_back(quoted(name));
  return all;
}

class Judge {
 public:
  explicit Judge(Report& report) : r_(report) {}

  void judge() {
    files();
    inputs();
    signer();
    order();
    documents();
    training();
    teacher_rows();
    derived();
    kinship();
    estimates();
    recorded();
    limits();
  }

 private:
  void add(std::string id, std::string claim, ClaimStatus status, std::string how, std::string command = {}) {
    r_.claims.push_back({std::move(id), std::move(claim), status, std::move(how), std::move(command)});
  }
  bool trusted(int audit) const { return r_.audits.list[size_t(audit)].trusted; }
  std::string auditor(int audit) const {
    const ReportAudit& a = r_.audits.list[size_t(audit)];
    if (a.trusted) return "signed by the auditor whom the reader trusts";
    return a.by_maker ? "signed with the maker's own key, so not by a second party"
                      : "signed with a key that the reader did not name; --auditor-key names a trusted one";
  }
  /// A maker can sign any number of records with new keys, and so can a competitor. For or against, a record counts only as far as
  /// the reader trusts its signer.
  ClaimStatus by(int audit, ClaimStatus status) const {
    if (trusted(audit)) return status;
    return status == ClaimStatus::failed ? ClaimStatus::unchecked : ClaimStatus::recorded;
  }

  template <class Test>
  std::vector<const ReportArtifact*> artifacts(Test test) const {
    std::vector<const ReportArtifact*> found;
    for (const ReportArtifact& a : r_.artifacts)
      if (test(a)) found.push_back(&a);
    return found;
  }
  std::vector<const ReportArtifact*> of_role(Role role) const {
    return artifacts([&](const ReportArtifact& a) { return a.row() && a.row()->role == role; });
  }
  const ReportArtifact* find(const std::string& name) const {
    for (const ReportArtifact& a : r_.artifacts)
      if (a.name == name) return &a;
    return nullptr;
  }

  void files() {
    const bool foreign_failures = std::any_of(r_.findings.begin(), r_.findings.end(), [&](const Finding& f) {
      return f.severity == Severity::failure && !find(f.artifact);
    });
    std::vector<std::string> names;
    for (const std::string& name : r_.left_out) names.push_back(quoted(name));
    add("files-unchanged", "The files of each artifact here are exactly the ones that its statement lists.",
        names.empty() && !foreign_failures ? ClaimStatus::proved : ClaimStatus::failed,
        names.empty() ? fmt::format("The digests of {} files were compared with the signed ones while this report was made. Not "
                                    "covered: files outside the artifacts, .git and .github inside them, and artifacts that were "
                                    "removed whole and that no other artifact here was made from.",
                                    r_.files)
                      : fmt::format("Not true of {}; see the findings.", joined(names)),
        "overproof audit verify RUN");
  }

  void inputs() {
    std::vector<std::string> gaps, broken;
    for (const ReportArtifact& a : r_.artifacts) {
      if (!a.missing.empty()) gaps.push_back(quoted(a.name));
      else if (!a.holds) broken.push_back(quoted(a.name));
    }
    std::string how = "Each statement names its inputs by digest, and each digest is that of an artifact that was checked.";
    if (!r_.holds) how = gaps.empty() && broken.empty() ? "Part of the chain does not hold; see the findings." : "";
    if (!gaps.empty())
      how = r_.holds ? fmt::format("Inputs of {} came from outside without a statement: only their digests are known.", joined(gaps))
                     : how + fmt::format("Inputs of {} are missing. ", joined(gaps));
    if (!broken.empty()) how += fmt::format("Not true where a chain passes through {}; see the findings.", joined(broken));
    add("inputs-here", "The inputs that each statement names are here, by digest, up to the models from outside and the corpus.",
        !r_.holds ? ClaimStatus::failed : gaps.empty() ? ClaimStatus::proved : ClaimStatus::recorded, how);
  }

  /// Of checks made with the report itself: nothing was shown of an artifact whose files are not the signed ones.
  std::pair<ClaimStatus, std::string> shown_of(const std::vector<const ReportArtifact*>& artifacts, std::string how) const {
    for (const ReportArtifact* a : artifacts)
      if (std::count(r_.left_out.begin(), r_.left_out.end(), a->name))
        return {ClaimStatus::unchecked,
                fmt::format("Could not be checked: the files of {} are not the signed ones.", quoted(a->name))};
    for (const ReportArtifact* a : artifacts)
      if (!a->holds) return {ClaimStatus::failed, fmt::format("A check of {} failed; see the findings.", quoted(a->name))};
    return {ClaimStatus::proved, std::move(how)};
  }

  void signer() {
    if (r_.trusted_key)
      add("signer", "Every artifact was signed with the key that the reader trusts.",
          r_.not_signed.empty() ? ClaimStatus::proved : ClaimStatus::failed,
          r_.not_signed.empty()
              ? "Every signature was checked with the key given by --public-key. What is signed is not thereby true."
              : fmt::format("Not true of {}; see the findings.", joined(quoted_all(r_.not_signed))));
    else
      add("signer", "The signer is the publisher.", ClaimStatus::recorded,
          r_.not_signed.empty()
              ? fmt::format("The signatures are valid for the {0} in the statements. The owner of the {0} was not checked.",
                            r_.signers.size() == 1 ? "key" : "keys")
              : fmt::format("Not even the signatures of {} are valid; see the findings.", joined(quoted_all(r_.not_signed))),
          "overproof audit report RUN --public-key PUBLISHER.pub");
  }

  void order() {
    std::vector<const ReportArtifact*> read = of_role(Role::targets), corpora = of_role(Role::corpus);
    if (read.empty()) return;
    read.insert(read.end(), corpora.begin(), corpora.end());
    const auto [status, how] = shown_of(
        read,
        "The key of the order is a digest of the corpus root and the seed; the steps that read a document are computed from "
        "it, not taken from a log. " +
            (r_.beacons.empty()
                 ? std::string("Not shown: that no other seed was tried first, because no public randomness is part of it.")
                 : fmt::format("Public randomness is part of it ({}); that it was published after the corpus was fixed is for "
                               "the reader to look up.",
                               joined(r_.beacons))));
    add("order", "The order of training follows from the corpus and a seed in the statements.", status, how);
  }

  void documents() {
    for (const ReportCorpus& c : r_.corpora) {
      const std::string id = "documents-" + c.artifact,
                        claim = fmt::format("A given document is, or is not, in {}.", quoted(c.artifact));
      if (!c.facts.committed) {
        add(id, claim, ClaimStatus::recorded,
            "The table of documents is signed, but the corpus has no commitment from which presence and absence could be proved "
            "to others.");
        continue;
      }
      auto [status, how] =
          shown_of({find(c.artifact)},
                   "The corpus commits to its documents by two Merkle trees; presence and absence of a document can "
                   "be proved with the signed roots. Compared byte for byte: a document with one changed character "
                   "is another document. While this report was made, tokens, splits and sums were made again from the texts in "
                   "the corpus.");
      // Without the secret, the commitment of a private corpus cannot be compared with its table; a note states that.
      for (const Finding& f : r_.findings)
        if (status == ClaimStatus::proved && f.severity == Severity::note && f.artifact == c.artifact)
          status = ClaimStatus::unchecked, how = fmt::format("Note of the verification: {}.", f.what);
      add(id, claim, status, how, "overproof audit prove RUN --document FILE --out proof.json");
    }
  }

  /// The record about an artifact that decides: one by a trusted auditor before others; among equals one that found a difference,
  /// which outweighs any number that did not draw it; then by `strength`.
  template <class Finding, class Strength>
  const Finding* deciding(const std::vector<Finding>& findings, const std::string& artifact, Strength strength) const {
    const auto rank = [&](const Finding& f) { return std::tuple(trusted(f.audit), !f.is_equal(), strength(f)); };
    const Finding* best = nullptr;
    for (const Finding& f : findings)
      if (f.artifact == artifact && (!best || rank(f) > rank(*best))) best = &f;
    return best;
  }

  static std::string odds_of(const std::vector<ReplayOdds>& odds) {
    for (const ReplayOdds& o : odds)
      if (o.forged_fraction == 0.05)
        return fmt::format(" If 5 % of them were forged, this draw finds one with a probability of at least {}.",
                           percent(o.caught_at_least));
    return "";
  }

  void training() {
    for (const ReportArtifact* a : artifacts([](const auto& x) { return x.is_shown_by(ShownBy::replay); })) {
      const std::string id = "training-" + a->name,
                        claim = fmt::format("The weights of {} result from the recorded data, rates and steps.", quoted(a->name));
      const std::string command =
          fmt::format("overproof audit replay RUN --artifact {} --segments 59 --seed HEX --record", a->name);
      const ReplayFinding* best =
          deciding(r_.audits.replays, a->name, [](const ReplayFinding& f) { return std::tuple(f.bitwise, f.drawn); });
      const int remade = recomputed(a->name) == "equal" ? recompute_of(a->name) : -1;
      if (remade >= 0 && (!best || best->is_equal() || (trusted(remade) && !trusted(best->audit)))) {
        add(id, claim, by(remade, ClaimStatus::audited),
            fmt::format("The whole training was repeated, and all files were equal byte for byte ({}).", auditor(remade)),
            command);
      } else if (!best) {
        add(id, claim, ClaimStatus::unchecked,
            a->has_step_records ? "No record of a replay is here. Statement, corpus and step records agree with each other, which shows no more than that."
                                : "No record of a replay is here, and no step records, so nothing but audit recompute, which makes all of it again, shows anything.",
            command);
      } else if (!best->is_equal()) {
        add(id, claim, by(best->audit, ClaimStatus::failed),
            fmt::format("A replay found a difference ({}); see below.", auditor(best->audit)), command);
      } else if (best->made == 0) {
        add(id, claim, ClaimStatus::unchecked,
            fmt::format(
                "Order, counts, rates and batches of {} of {} steps follow from statement, corpus and soft targets, but no "
                "step was repeated ({}).",
                best->steps_equal, best->steps, auditor(best->audit)),
            command);
      } else {
        const bool all = best->made >= best->segments;
        if (!all && !best->by_chance) {
          add(id, claim, ClaimStatus::unchecked,
              fmt::format(
                  "{} of {} segments were repeated and were equal, but the seed that chose them could be known beforehand ({}).",
                  best->made, best->segments, auditor(best->audit)),
              command);
          continue;
        }
        add(id, claim,
            by(best->audit, !best->bitwise ? ClaimStatus::estimated
                            : all          ? ClaimStatus::audited
                                           : ClaimStatus::sampled),
            fmt::format(
                "{} of {} segments{} were repeated and were {} ({}).{}", all ? best->made : best->drawn, best->segments,
                all                         ? ""
                : best->made == best->drawn ? ", drawn at random,"
                                            : ", drawn at random, and the last",
                best->bitwise ? "equal bit for bit" : fmt::format("within {:g} of the weights' movement", best->tolerance),
                auditor(best->audit), all ? "" : odds_of(best->odds)) +
                (best->files_equal ? " Configuration, tokenizer and templates next to the weights were made again, and are equal."
                                   : " The files next to the weights were not compared."),
            command);
      }
    }
  }

  void teacher_rows() {
    for (const ReportArtifact* a : artifacts([](const auto& x) { return x.is_shown_by(ShownBy::rows); })) {
      const std::string id = "rows-" + a->name, claim = fmt::format("The rows of {} are the teacher's outputs.", quoted(a->name));
      const std::string command = fmt::format("overproof audit rows RUN/{} --rows 59 --seed HEX --record", a->name);
      if (a->recorded) {
        add(id, claim, ClaimStatus::recorded,
            "They are a record of a teacher that is out of reach. No audit can compute them again.");
        continue;
      }
      const RowsFinding* best =
          deciding(r_.audits.rows, a->name, [](const RowsFinding& f) { return std::tuple(f.drawn, f.rows); });
      if (!best) {
        add(id, claim, ClaimStatus::unchecked, "No record here shows that rows were computed again.", command);
      } else if (!best->is_equal()) {
        add(id, claim, by(best->audit, ClaimStatus::failed),
            fmt::format("Rows were computed again, and some differ ({}); see below.", auditor(best->audit)), command);
      } else if (!best->drawn) {
        add(id, claim, ClaimStatus::unchecked,
            fmt::format("A row that the auditor chose is equal, which shows nothing of the others ({}).", auditor(best->audit)),
            command);
      } else if (!best->by_chance) {
        add(id, claim, ClaimStatus::unchecked,
            fmt::format("{} of {} rows are equal, but the seed that chose them could be known beforehand ({}).", best->rows,
                        best->rows_total, auditor(best->audit)),
            command);
      } else {
        add(id, claim, by(best->audit, ClaimStatus::sampled),
            fmt::format("{} of {} rows, drawn at random, were computed again and are equal ({}).{}", best->rows, best->rows_total,
                        auditor(best->audit), odds_of(best->odds)),
            command);
      }
    }
  }

  /// What records of recomputing state of an artifact that is here, "differs", "equal" or "": those by a trusted auditor if there
  /// are any, else all; the worst of them.
  std::string recomputed(const std::string& artifact) const {
    std::string status, theirs;
    for (const RecomputeFinding& f : r_.audits.recomputes)
      for (const RecomputedArtifact& a : f.artifacts) {
        if (!a.here || a.artifact != artifact || (a.status != "differs" && a.status != "equal")) continue;
        std::string& into = trusted(f.audit) ? status : theirs;
        if (into != "differs") into = a.status;
      }
    return status.empty() ? theirs : status;
  }
  /// The record that states it; one by a trusted auditor if there is any.
  int recompute_of(const std::string& artifact) const {
    const std::string status = recomputed(artifact);
    int found = -1;
    for (const RecomputeFinding& f : r_.audits.recomputes)
      for (const RecomputedArtifact& a : f.artifacts)
        if (a.here && a.artifact == artifact && a.status == status && (found < 0 || trusted(f.audit)))
          found = f.audit;
    return found;
  }

  void derived() {
    std::vector<std::string> equal, stated, differs, contested, open;
    std::set<std::string> signers;
    for (const ReportArtifact* a : artifacts([](const auto& x) { return x.is_shown_by(ShownBy::recompute); })) {
      const std::string status = recomputed(a->name);
      const bool sure = !status.empty() && trusted(recompute_of(a->name));
      std::vector<std::string>& list = status == "equal"     ? sure ? equal : stated
                                       : status == "differs" ? sure ? differs : contested
                                                             : open;
      list.push_back(quoted(a->name));
      if (!status.empty() && !sure) signers.insert(auditor(recompute_of(a->name)));
    }
    const std::string others = joined({signers.begin(), signers.end()});
    const char* again = "Made again from the same parents with the recorded configuration; files and measurements were equal";
    const auto add_for = [&](const char* id, const std::vector<std::string>& names, ClaimStatus status, const std::string& how) {
      if (names.empty()) return;
      add(id,
          fmt::format("{} {} exactly what the stated parents and options produce.", joined(names),
                      names.size() == 1 ? "is" : "are"),
          status, how, "overproof audit recompute RUN --record");
    };
    add_for("derived-equal", equal, ClaimStatus::audited,
            fmt::format("{} (signed by the auditor whom the reader trusts).", again));
    add_for("derived-stated", stated, ClaimStatus::recorded, fmt::format("{} ({}).", again, others));
    add_for("derived-differs", differs, ClaimStatus::failed, "Made again, the result differs; see below.");
    add_for("derived-contested", contested, ClaimStatus::unchecked,
            fmt::format("A record states a different result ({}); see below.", others));
    add_for("derived-open", open, ClaimStatus::unchecked,
            "No record here shows that it was made again. The statement names its parents and options.");
  }

  void kinship() {
    const auto& compares = r_.audits.compares;
    // Without a comparison no other model is in question: the run claims nothing about it. limits() names the tests that were not run.
    if (compares.empty()) return;
    const bool any_trusted = std::any_of(compares.begin(), compares.end(), [&](const auto& f) { return trusted(f.audit); });
    add("kinship", "Another model is, or is not, derived from one of these.",
        any_trusted ? ClaimStatus::estimated : ClaimStatus::recorded,
        fmt::format("{} recorded. Each test has a null hypothesis, a p-value and a list of what it cannot show; neither one test nor all "
                    "together are a verdict.",
                    compares.size() == 1 ? "One comparison is" : fmt::format("{} comparisons are", compares.size())),
        "overproof audit compare RUN SUSPECT --record");
  }

  /// Whether a trusted auditor made the counts of an artifact again: by replay of its training, or of all of it.
  bool counts_made_again(const std::string& artifact) const {
    if (const int remade = recompute_of(artifact); remade >= 0 && trusted(remade) && recomputed(artifact) == "equal") return true;
    return std::ranges::any_of(r_.audits.replays, [&](const ReplayFinding& f) {
      return f.artifact == artifact && f.is_equal() && f.bitwise && f.counts_equal && trusted(f.audit);
    });
  }

  void estimates() {
    if (!r_.quality.empty())
      add("quality", "The quality of the models: perplexity, divergence from the teacher, agreement.", ClaimStatus::estimated,
          "Measured on the held-out windows of the corpus that each evaluation names; other documents give other values. Not "
          "checked: "
          "that no model was trained on these windows.");
    if (!r_.arenas.empty()) {
      const bool served = std::ranges::any_of(r_.arenas, [](const ReportArena& a) { return a.facts.judge == "openai-url"; });
      add("arena", "The ratings of models by battles of their answers.", served ? ClaimStatus::recorded : ClaimStatus::estimated,
          std::string("Of the prompts and the judge that each arena names; others give other ratings. ") +
              (served ? "A server judged some of them, and no audit can ask it again." : "Every battle and answer is in the artifact, and audit recompute makes them again."),
          "overproof audit recompute RUN --stages arena --file tasks=FILE");
    }
    if (!of_role(Role::targets).empty())
      add("soft-targets", "The stored soft targets represent the teacher's whole distribution.", ClaimStatus::estimated,
          "Sampled ones are an unbiased estimate of it; top-k ones keep the most probable ids and the mass of the rest.");
    if (!r_.experts.empty()) {
      std::vector<std::string> open;
      for (const ReportExperts& e : r_.experts)
        if (!counts_made_again(e.artifact)) open.push_back(quoted(e.artifact));
      add("experts", "The number of tokens of each source that each expert received.",
          open.empty() ? ClaimStatus::audited : ClaimStatus::recorded,
          (open.empty() ? std::string("Replayed trainings ended with these counts, and the step records have their digest. ")
                        : fmt::format("Counted exactly by the training program, and signed; no trusted record here shows that those of "
                                      "{} were made again. ",
                                      joined(open))) +
              "They do not show what an expert learned.",
          "overproof audit replay RUN --seed HEX --record");
    }
  }

  void recorded() {
    if (!r_.corpora.empty())
      add("document-origin", "The origin of each document, and its licence.", ClaimStatus::recorded,
          "As the collector of the texts recorded them. No check can show it. The tables here were summed again from the list of "
          "documents; documents that were left out are not in it.");
    if (std::ranges::any_of(r_.origins, [](const ReportOrigin& o) { return !o.seeded; }))
      add("model-origin", "Name, publisher and licence of the models from outside.", ClaimStatus::recorded,
          "Their bytes are fixed by digest. Compare the digest with the publisher's to see that they are the publisher's.");
    add("nothing-else", "Nothing else was done: no other training, no other data, no other run that was discarded.",
        ClaimStatus::recorded,
        "A signer can leave out what was never signed. Replay, recomputing and the tests of kinship each cover a part of this.");
    add("time", "The time of each step.", ClaimStatus::recorded,
        "No statement holds a time. Only an independent witness of a digest can show one.");
  }

  void limits() {
    std::set<std::string_view> statuses;
    for (const ReportClaim& c : r_.claims)
      if (c.id.starts_with("training-")) statuses.insert(status_name(c.status));
    const auto tested = [&](std::string_view test, const char* what) {
      for (const CompareFinding& c : r_.audits.compares)
        for (const EvidenceFinding& e : c.tests)
          if (e.name.starts_with(test) && e.not_run.empty()) return fmt::format("A test {} is recorded.", what);
      return fmt::format("No test {} is recorded.", what);
    };
    r_.limits = {
        {"Present a model's text as written by people.",
         "Nothing proves the author of a text. A watermark set while the teacher was sampled can reveal it.",
         tested("radioactivity", "for a watermark")},
        {"Train on other data between two recorded states.",
         "A replay of that segment finds other digests; the replayed segments are drawn at random.",
         statuses.empty() ? "There is no training here." : fmt::format("Training: {}.", fmt::join(statuses, ", "))},
        {"Start from weights that are not disclosed.",
         "The first weights are made again from their parent or seed; tests on weights find models with a common initialisation.",
         tested("weights", "on weights")},
        {"Write the whole lineage afterwards.",
         "The order of training is bound to the corpus. That the order existed before the training needs a witness of the corpus "
         "root, "
         "or the test of committed order.",
         tested("committed-order", "of committed order")},
        {"Show different lineages to different readers.", "Readers compare roots, or witnesses sign them.",
         "The roots are listed under Lineage."},
    };
  }

  Report& r_;
};

}  // namespace

void judge_claims(Report& report) { Judge(report).judge(); }

}  // namespace overproof
