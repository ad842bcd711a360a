#include "audit/croissant.h"
#include "audit/diff.h"
#include "audit/eu_summary.h"
#include "audit/impact.h"
#include "audit/openlineage.h"
#include "audit/policy.h"
#include "audit/prove.h"
#include "audit/sbom.h"
#include "audit/statement_tool.h"
#include "audit/trace.h"
#include "audit/verify.h"
#include "cli/stage_verb.h"
#include "distill/replay.h"
#include "evaluate/evidence_compare.h"
#include "pipeline/recompute.h"
#include "pipeline/torch_functions.h"
#include "report/report.h"
#include "teacher/check_rows.h"

namespace overproof {
namespace {

/// `audit recompute` needs what the stages need that it runs again.
class RecomputeVerb final : public VerbInstance {
 public:
  Options options() override { return options_of(config_); }
  std::optional<Needs> needs(const Arguments& arguments) override { return recompute_needs(config_, arguments[0]); }
  Answer run(const CommonConfig&, const Arguments& arguments) override { return audit_recompute(config_, arguments[0]); }

 private:
  RecomputeConfig config_;
};

}  // namespace

std::vector<VerbSpec> audit_verbs() {
  const std::vector<Argument> folder = {{"folder", "a run folder, or one artifact in it"}};
  return {
      {.name = "audit verify",
       .group = VerbGroup::audit,
       .help = "Checks every file, signature and statement, up to the teacher and the corpus.",
       .example = "overproof audit verify runs/smollm2-moe",
       .arguments = folder,
       .make = make_verb(audit_verify)},
      {.name = "audit trace",
       .group = VerbGroup::audit,
       .help = "Finds where a document was used, what a step read, what an artifact is made of, or where a passage is.",
       .example = "overproof audit trace runs/smollm2-moe --document manpages-dev/usr/share/man/man2/fsync.2.txt",
       .arguments = folder,
       .make = make_verb(audit_trace)},
      {.name = "audit impact",
       .group = VerbGroup::audit,
       .help = "Lists the experts that a source of the corpus shaped most, or the sources that shaped an expert.",
       .example = "overproof audit impact runs/smollm2-moe --source manpages-dev",
       .arguments = folder,
       .make = make_verb(audit_impact)},
      {.name = "audit prove",
       .group = VerbGroup::audit,
       .help = "Proves that a document was, or was not, in the corpus; the public note key is enough to check the proof.",
       .example = "overproof audit prove runs/smollm2-moe --document mine.txt --out proof.json",
       .arguments = folder,
       .make = make_verb(audit_prove)},
      {.name = "audit check-proof",
       .group = VerbGroup::audit,
       .help = "Checks a proof of presence or absence; needs no run.",
       .example = "overproof audit check-proof proof.json --checkpoint-key signing-key.pem.note.pub --document mine.txt",
       .arguments = {{"proof", "a file written by audit prove"}},
       .make = make_verb(audit_check_proof)},
      {.name = "audit checkpoint",
       .group = VerbGroup::audit,
       .help = "Signs the roots of the corpus's trees as notes of transparency logs, and publishes their tiles.",
       .example = "overproof audit checkpoint runs/smollm2-moe --name example.com/corpora --publish public/smollm2-moe",
       .arguments = folder,
       .make = make_verb(audit_checkpoint)},
      {.name = "audit salt",
       .group = VerbGroup::audit,
       .help = "Makes the secret under which a private corpus is committed.",
       .example = "overproof audit salt --out keys/corpus.salt",
       .make = make_verb(audit_salt)},
      {.name = "audit report",
       .group = VerbGroup::audit,
       .help = "Writes the lineage as a self-contained HTML page.",
       .example = "overproof audit report runs/smollm2-moe",
       .arguments = folder,
       .make = make_verb(audit_report)},
      {.name = "audit statement",
       .group = VerbGroup::audit,
       .help = "Prints the signed in-toto statement of an artifact, for other tools.",
       .example = "overproof audit statement runs/smollm2-moe/int8 --pretty",
       .arguments = folder,
       .make = make_verb(audit_statement)},
      {.name = "audit sbom",
       .group = VerbGroup::audit,
       .help = "Writes the lineage as a bill of materials: CycloneDX or SPDX.",
       .example = "overproof audit sbom runs/smollm2-moe/int8 --format spdx --out int8.spdx.json",
       .arguments = folder,
       .make = make_verb(audit_sbom)},
      {.name = "audit croissant",
       .group = VerbGroup::audit,
       .help = "Describes a corpus in Croissant, for dataset loaders.",
       .example = "overproof audit croissant runs/smollm2-moe/corpus --out corpus.croissant.json",
       .arguments = {{"folder", "a corpus, or a run that has one"}},
       .make = make_verb(audit_croissant)},
      {.name = "audit openlineage",
       .group = VerbGroup::audit,
       .help = "Writes a finished run as OpenLineage events, one a line.",
       .example = "overproof audit openlineage runs/smollm2-moe --out events.jsonl",
       .arguments = folder,
       .make = make_verb(audit_openlineage)},
      {.name = "audit summary",
       .group = VerbGroup::audit,
       .help = "Writes the public summary of training content that the EU requires, as far as it is recorded.",
       .example = "overproof audit summary runs/smollm2-moe/int8 --eu --out summary.md",
       .arguments = folder,
       .make = make_verb(audit_summary)},
      {.name = "audit policy",
       .group = VerbGroup::audit,
       .help = "Lists the licences and terms that a model inherits, and whether a policy allows its export.",
       .example = "overproof audit policy runs/smollm2-moe/int8 --acknowledge GPL-2.0-or-later",
       .arguments = {{"artifact", "the model to publish", false}},
       .make = make_verb(audit_policy)},
      {.name = "audit diff",
       .group = VerbGroup::audit,
       .help = "Lists what differs between two runs, or between two artifacts and their ancestors.",
       .example = "overproof audit diff runs/smollm2-moe/int8 runs/another/int8",
       .arguments = {{"a", "a run folder, or one artifact in it"}, {"b", "the other"}},
       .make = make_verb(audit_diff)},
      {.name = "audit rows",
       .group = VerbGroup::audit,
       .help = "Runs the teacher again and compares its outputs with the soft targets, byte for byte.",
       .example = "overproof audit rows runs/smollm2-moe/soft-targets --rows 59 --seed 5f2c9a41 --record",
       .arguments = {{"targets", "a soft-targets artifact"}},
       .needs = Needs::torch,
       .make = make_verb(torch_function<decltype(audit_rows)>)},
      {.name = "audit replay",
       .group = VerbGroup::audit,
       .help = "Repeats randomly drawn steps of a training and compares weights, optimizer and losses bitwise.",
       .example = "overproof audit replay runs/smollm2-moe --segments 3 --seed 5f2c9a41",
       .arguments = folder,
       .needs = Needs::torch,
       .make = make_verb(torch_function<decltype(audit_replay)>)},
      {.name = "audit compare",
       .group = VerbGroup::audit,
       .help = "Tests whether two models are related; each p-value comes with its assumptions, and no test is a verdict.",
       .example = "overproof audit compare runs/smollm2-moe runs/suspect/int8 --controls runs/other/student --record",
       .arguments = {{"a", "a run, or the model that may be the parent or teacher"},
                     {"b", "the suspect: a checkpoint folder or a .gguf file"}},
       .needs = Needs::torch,
       .make = make_verb(torch_function<decltype(audit_compare)>)},
      {.name = "audit recompute",
       .group = VerbGroup::audit,
       .help = "Makes artifacts again from their parents and compares them byte for byte.",
       .example = "overproof audit recompute runs/smollm2-moe/int8",
       .arguments = folder,
       .needs = Needs::torch,
       .make = [] { return std::make_unique<RecomputeVerb>(); }},
  };
}

}  // namespace overproof
