// Which claim about a run is proved, estimated or only recorded, and by what. Exact wording matters more here than anywhere: a
// check proves what it looked at, and nothing of what is said beside it.

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "audit/report_model.h"

namespace overproof {
namespace {

std::string percent(double share) { return fmt::format("{:.1f}\u00a0%", 100 * share); }

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (size_t i = 0; i < names.size(); ++i) all += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
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
  void add(std::string id, std::string claim, Standing standing, std::string how, std::string command = {}) {
    r_.claims.push_back({std::move(id), std::move(claim), standing, std::move(how), std::move(command)});
  }
  bool has_kind(std::string_view kind) const {
    return std::any_of(r_.artifacts.begin(), r_.artifacts.end(), [&](const ReportArtifact& a) { return a.kind == kind; });
  }
  std::string auditor(int audit) const {
    const ReportAudit& a = r_.audits.list[size_t(audit)];
    if (a.trusted) return "signed by the auditor that the reader trusts";
    return a.by_maker ? "signed by the maker's own key, so no second party vouches for it"
                      : "signed by a key for which nobody vouches here; name it with --auditor-key if you do";
  }
  bool trusted(int audit) const { return r_.audits.list[size_t(audit)].trusted; }
  /// A maker can write any number of records with fresh keys, and so can a rival. What a record says, for or against, is worth as
  /// much as the reader's trust in its signer.
  Standing by(int audit, Standing standing) const {
    return trusted(audit) ? standing : standing == Standing::failed ? Standing::unchecked : Standing::recorded;
  }

  void files() {
    const std::string looked =
        fmt::format("{} files were digested and compared with the signed digests while this report was made", r_.files);
    add("files-unchanged", "No file was changed, added or taken away since it was signed.",
        r_.left_out.empty() && !unsigned_folders() ? Standing::proved : Standing::failed,
        r_.left_out.empty() ? looked + "." : fmt::format("Not so for {}; see the findings.", joined(r_.left_out)),
        "overproof audit verify RUN");
  }

  bool unsigned_folders() const {
    return std::any_of(r_.findings.begin(), r_.findings.end(), [&](const Finding& f) {
      return f.severity == Severity::failure && std::none_of(r_.artifacts.begin(), r_.artifacts.end(),
                                                             [&](const ReportArtifact& a) { return a.name == f.artifact; });
    });
  }

  void inputs() {
    std::vector<std::string> gaps, broken;
    for (const ReportArtifact& a : r_.artifacts) {
      if (!a.missing.empty()) gaps.push_back("‘" + a.name + "’");
      else if (!a.holds) broken.push_back("‘" + a.name + "’");
    }
    std::string how = "Each statement names its inputs by digest, and each digest is that of an artifact that was checked.";
    if (!r_.holds) how = gaps.empty() && broken.empty() ? "Something in the chain does not hold; see the findings." : "";
    if (!gaps.empty()) how += fmt::format("Inputs are missing of {}. ", joined(gaps));
    if (!broken.empty()) how += fmt::format("Not so where a chain passes through {}; see the findings.", joined(broken));
    add("inputs-here",
        "What each artifact says it was made from is here, by digest, up to the models from outside and the corpus.",
        r_.holds ? Standing::proved : Standing::failed, how);
  }

  /// What was shown of an artifact while the report was made. Where its files are others than were signed, nothing was.
  std::pair<Standing, std::string> shown_of(const std::vector<const ReportArtifact*>& artifacts, std::string how) const {
    for (const ReportArtifact* a : artifacts)
      if (std::count(r_.left_out.begin(), r_.left_out.end(), a->name))
        return {Standing::unchecked, fmt::format("Could not be checked: ‘{}’ is not what was signed.", a->name)};
    for (const ReportArtifact* a : artifacts)
      if (!a->holds) return {Standing::failed, fmt::format("Something about ‘{}’ does not hold; see the findings.", a->name)};
    return {Standing::proved, std::move(how)};
  }
  std::vector<const ReportArtifact*> of_kind(std::initializer_list<std::string_view> kinds) const {
    std::vector<const ReportArtifact*> found;
    for (const ReportArtifact& a : r_.artifacts)
      if (std::find(kinds.begin(), kinds.end(), a.kind) != kinds.end()) found.push_back(&a);
    return found;
  }

  void signer() {
    if (r_.trusted_key)
      add("signer", "All of it was signed with the key that the reader trusts.", r_.holds ? Standing::proved : Standing::failed,
          "Every signature was checked with the key given by --public-key.");
    else
      add("signer", "The signer is who the reader takes it for.", Standing::recorded,
          fmt::format("Signatures hold by the key{} that the statements name. Whose {} it is was not checked.",
                      r_.signers.size() == 1 ? "" : "s", r_.signers.size() == 1 ? "key" : "keys"),
          "overproof audit report RUN --public-key PUBLISHER.pub");
  }

  void order() {
    if (!has_kind("taught")) return;
    std::string words =
        "The key of the order is a digest over the corpus root and the seed. From it, the steps that saw a document are "
        "computed; no log "
        "is believed. ";
    if (r_.beacons.empty())
      words += "That the seed was not tried out beforehand is not shown: no public randomness is bound into it.";
    else
      words += fmt::format(
          "Public randomness is bound into it ({}); that it came after the corpus was fixed is for the reader to look up.",
          joined(r_.beacons));
    const auto [standing, how] = shown_of(of_kind({"taught", "corpus-of"}), words);
    add("order", "The order of training follows from the corpus and a seed; nobody could choose it document by document.",
        standing, how, "overproof audit trace RUN --document FILE");
  }

  void documents() {
    for (const ReportCorpus& c : r_.corpora) {
      if (c.committed) {
        const auto corpus =
            std::find_if(r_.artifacts.begin(), r_.artifacts.end(), [&](const ReportArtifact& a) { return a.name == c.artifact; });
        auto [standing, how] =
            shown_of({&*corpus},
                     "The corpus commits to its documents by two Merkle trees; presence and absence of any document can "
                     "be proved to whoever has the signed roots. Byte for byte: a document with one character changed is "
                     "another document.");
        // The commitment of a private corpus cannot be held against its table without the secret; the verification then says so.
        for (const Finding& f : r_.findings)
          if (standing == Standing::proved && f.severity == Severity::note && f.artifact == c.artifact)
            standing = Standing::unchecked, how = fmt::format("The verification remarks: {}.", f.what);
        add("documents-" + c.artifact, fmt::format("A given document is, or is not, in ‘{}’.", c.artifact), standing, how,
            "overproof audit prove RUN --document FILE --out proof.json");
      } else {
        add("documents-" + c.artifact, fmt::format("A given document is, or is not, in ‘{}’.", c.artifact), Standing::recorded,
            "The table of documents is signed, but the corpus holds no commitment from which presence and absence could be "
            "proved to others.");
      }
    }
  }

  void training() {
    for (const ReportArtifact& a : r_.artifacts) {
      if (a.kind != "distilled-from" && a.kind != "calibrated-from") continue;
      const std::string id = "training-" + a.name,
                        claim =
                            fmt::format("The training of ‘{}’ went as recorded: these data, these rates, these steps.", a.name);
      const std::string command =
          fmt::format("overproof audit replay RUN --artifact {} --segments 59 --seed HEX --record", a.name);
      const ReplayFinding* best = nullptr;
      for (const ReplayFinding& f : r_.audits.replays) {
        if (f.artifact != a.name) continue;
        // Those of a trusted auditor first; among equals, one replay that found something outweighs any number that did not draw
        // it.
        const auto rank = [&](const ReplayFinding& x) { return std::tuple(trusted(x.audit), !x.came_out(), x.bitwise, x.drawn); };
        const auto better = [&](const ReplayFinding& x, const ReplayFinding& y) { return rank(x) > rank(y); };
        if (!best || better(f, *best)) best = &f;
      }
      const bool remade = recomputed(a.name) == "equal";
      if (remade && (!best || best->came_out() || (trusted(recompute_of(a.name)) && !trusted(best->audit)))) {
        add(id, claim, by(recompute_of(a.name), Standing::audited),
            fmt::format("The whole training was made again, and the files came out byte for byte ({}).",
                        auditor(recompute_of(a.name))),
            command);
      } else if (!best) {
        add(id, claim, Standing::unchecked,
            "No record of a replay is here. Statement, corpus and records agree with each other, which shows no more than that.",
            command);
      } else if (!best->came_out()) {
        add(id, claim, by(best->audit, Standing::failed),
            fmt::format("A replay did not come out as recorded ({}); see below.", auditor(best->audit)), command);
      } else if (best->drawn == 0) {
        add(id, claim, Standing::unchecked,
            fmt::format("Order, counts, rates and batches of {} of {} steps follow from statement, corpus and teacher's rows, "
                        "but no step was made again ({}).",
                        best->steps_equal, best->steps, auditor(best->audit)),
            command);
      } else {
        std::string how = fmt::format(
            "{} of {} segments, drawn by chance, were made again and came out {} ({}).", best->drawn, best->segments,
            best->bitwise ? "equal, bit for bit" : fmt::format("within {:g} of the weights' movement", best->tolerance),
            auditor(best->audit));
        for (const ReplayOdds& o : best->odds)
          if (o.forged_fraction == 0.05 && best->drawn < best->segments)
            how += fmt::format(" Had 5 % of them been forged, this draw would have caught it with a probability of at least {}.",
                               percent(o.caught_at_least));
        const Standing standing = !best->bitwise                  ? Standing::estimated
                                  : best->drawn >= best->segments ? Standing::audited
                                                                  : Standing::sampled;
        add(id, claim, by(best->audit, standing), how, command);
      }
    }
  }

  void teacher_rows() {
    for (const ReportArtifact& a : r_.artifacts) {
      if (a.kind != "taught") continue;
      const std::string id = "rows-" + a.name, claim = fmt::format("The rows of ‘{}’ are what the teacher says.", a.name);
      const std::string command = fmt::format("overproof audit rows RUN/{} --rows 59 --seed N --record", a.name);
      const RowsFinding* best = nullptr;
      for (const RowsFinding& f : r_.audits.rows) {
        if (f.artifact != a.name) continue;
        const auto rank = [&](const RowsFinding& x) { return std::tuple(trusted(x.audit), !x.came_out(), x.drawn, x.rows); };
        if (!best || rank(f) > rank(*best)) best = &f;
      }
      if (!best) {
        add(id, claim, Standing::unchecked, "No record here says that the teacher was asked again.", command);
      } else if (!best->came_out()) {
        add(id, claim, by(best->audit, Standing::failed),
            fmt::format("The teacher was asked again, and not all came out as recorded ({}); see below.", auditor(best->audit)),
            command);
      } else if (!best->drawn) {
        add(id, claim, Standing::unchecked,
            fmt::format("A row that the auditor chose came out equal, which says nothing of others ({}).", auditor(best->audit)),
            command);
      } else {
        std::string how = fmt::format("{} of {} rows, drawn by chance, were asked of the teacher again and came out equal ({}).",
                                      best->rows, best->rows_total, auditor(best->audit));
        for (const ReplayOdds& o : best->odds)
          if (o.forged_fraction == 0.05)
            how += fmt::format(" Had 5 % of them been forged, this draw would have caught it with a probability of at least {}.",
                               percent(o.caught_at_least));
        add(id, claim, by(best->audit, Standing::sampled), how, command);
      }
    }
  }

  /// What counting records say of an artifact that is here, "differs", "equal" or "": those of a trusted auditor if there are
  /// any, else all; the worst of them.
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
  /// The record that says so; one of a trusted auditor if there is any.
  int recompute_of(const std::string& artifact) const {
    int found = 0;
    for (const RecomputeFinding& f : r_.audits.recomputes)
      for (const RecomputedArtifact& a : f.artifacts)
        if (a.here && a.artifact == artifact && a.status == recomputed(artifact) && (found == 0 || trusted(f.audit)))
          found = f.audit + 1;
    return std::max(found - 1, 0);
  }

  void derived() {
    static const std::set<std::string, std::less<>> kOthers = {"", "imported", "taught", "distilled-from", "calibrated-from"};
    std::vector<std::string> equal, told, differs, contested, open;
    std::set<std::string> signers;
    for (const ReportArtifact& a : r_.artifacts) {
      if (kOthers.contains(a.kind)) continue;
      const std::string status = recomputed(a.name);
      const bool sure = !status.empty() && trusted(recompute_of(a.name));
      (status == "equal"     ? sure ? equal : told
       : status == "differs" ? sure ? differs : contested
                             : open)
          .push_back("‘" + a.name + "’");
      if (!status.empty() && !sure) signers.insert(auditor(recompute_of(a.name)));
    }
    const std::string command = "overproof audit recompute RUN --record";
    const auto claim = [](const std::vector<std::string>& names) {
      return fmt::format("{} came out of what {} made from, byte for byte.", joined(names),
                         names.size() == 1 ? "it says it was" : "they say they were");
    };
    const std::string others = joined({signers.begin(), signers.end()});
    const char* again = "Made again from the same parents by the recorded configuration; files and measurements came out equal";
    if (!equal.empty())
      add("derived-equal", claim(equal), Standing::audited,
          fmt::format("{} (signed by the auditor that the reader trusts).", again), command);
    if (!told.empty()) add("derived-told", claim(told), Standing::recorded, fmt::format("{} ({}).", again, others), command);
    if (!differs.empty())
      add("derived-differs", claim(differs), Standing::failed, "Made again, something else came out; see below.", command);
    if (!contested.empty())
      add("derived-contested", claim(contested), Standing::unchecked,
          fmt::format("A record says that something else came out ({}); see below.", others), command);
    if (!open.empty())
      add("derived-open", claim(open), Standing::unchecked,
          "No record here says that it was made again. The statement says from what and with which options.", command);
  }

  void kinship() {
    const std::string claim = "Another model does, or does not, come from one of these.";
    const std::string command = "overproof audit compare RUN SUSPECT --record";
    if (r_.audits.compares.empty())
      add("kinship", claim, Standing::unchecked, "No comparison with another model is recorded here.", command);
    else
      add("kinship", claim,
          std::any_of(r_.audits.compares.begin(), r_.audits.compares.end(),
                      [&](const CompareFinding& f) { return trusted(f.audit); })
              ? Standing::estimated
              : Standing::recorded,
          fmt::format("{} recorded. Each test has a null hypothesis, a p-value and things that it cannot show; none, nor all "
                      "together, is a verdict.",
                      r_.audits.compares.size() == 1 ? "One comparison is"
                                                     : fmt::format("{} comparisons are", r_.audits.compares.size())),
          command);
  }

  void estimates() {
    if (!r_.quality.empty())
      add("quality", "How good the models are: perplexity, distance to the teacher, agreement.", Standing::estimated,
          "Measured on documents that were held out; other documents give other figures.");
    if (has_kind("taught"))
      add("soft-targets", "The kept answers stand for the teacher's whole distribution.", Standing::estimated,
          "Where they were sampled, an unbiased estimate of it; where only the most probable were kept, all but the tail.");
    if (!r_.experts.empty())
      add("experts", "Which source's tokens went to which expert.", Standing::recorded,
          "Counted exactly by the program that trained, and signed; true if the training went as recorded. What an expert learnt "
          "from them does not follow.",
          "overproof audit impact RUN --source S");
  }

  void recorded() {
    if (!r_.corpora.empty())
      add("document-origin", "Where each document comes from, and its licence.", Standing::recorded,
          "As whoever gathered the texts wrote it down. No check can show it.");
    if (!r_.origins.empty())
      add("model-origin", "What the models from outside are called, who published them, and under which licence.",
          Standing::recorded,
          "The bytes are fixed by digest. That they are the publisher's follows only if the reader compares the digest with the "
          "publisher's.");
    add("nothing-else", "Nothing else was done: no other training, no other data, no other run that was thrown away.",
        Standing::recorded,
        "A signer can leave out what was never signed. Replay, recomputing and the tests of kinship each close a part of this.");
    add("time", "When it happened.", Standing::recorded,
        "No statement holds a time. A time is shown only by somebody else's witness of a digest.");
  }

  void limits() {
    const auto standing_of = [&](std::string_view prefix) {
      std::set<std::string_view> names;
      for (const ReportClaim& c : r_.claims)
        if (c.id.starts_with(prefix)) names.insert(standing_name(c.standing));
      std::string all;
      for (const std::string_view name : names) all += (all.empty() ? "" : ", ") + std::string(name);
      return all;
    };
    const auto tested = [&](std::string_view test) {
      for (const CompareFinding& c : r_.audits.compares)
        for (const EvidenceFinding& e : c.tests)
          if (e.name.starts_with(test) && e.not_run.empty()) return true;
      return false;
    };
    const std::string training = standing_of("training-");
    r_.limits = {
        {"Pass a teacher's text off as written by people.",
         "Nothing proves the author of a text. A watermark planted while the teacher was sampled can give it away.",
         tested("radioactivity") ? "A test for a watermark is recorded." : "No test for a watermark is recorded."},
        {"Train on other data between two recorded states.",
         "A replay of the segment breaks the digests; which segments are replayed is drawn by chance.",
         training.empty() ? "There is no training here." : "Training as recorded: " + training + "."},
        {"Start from weights that are not disclosed.",
         "The first weights are made again from their parent or seed; tests on weights find what was initialised from what.",
         tested("weights") ? "A test on weights is recorded." : "No test on weights is recorded."},
        {"Write a whole ledger afterwards.",
         "The order of training is bound to the corpus. That it came before the training needs a witness of the corpus root, or "
         "the test of committed order.",
         tested("committed-order") ? "A test of committed order is recorded." : "No test of committed order is recorded."},
        {"Show one ledger to one reader and another to the next.", "Readers compare roots, or witnesses sign them.",
         "The roots are listed under Lineage."},
    };
  }

  Report& r_;
};

}  // namespace

void judge_claims(Report& report) { Judge(report).judge(); }

}  // namespace overproof
