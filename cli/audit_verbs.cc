#include <iostream>

#include "audit/croissant.h"
#include "audit/diff.h"
#include "audit/eu_summary.h"
#include "audit/impact.h"
#include "audit/openlineage.h"
#include "audit/policy.h"
#include "audit/prove.h"
#include "audit/report.h"
#include "audit/sbom.h"
#include "audit/statement_tool.h"
#include "audit/trace.h"
#include "audit/verify.h"
#include "cli/stage_verb.h"
#include "pipeline/recompute.h"
#ifdef OVERPROOF_WITH_TORCH
#include "distill/replay.h"
#include "evaluate/evidence_compare.h"
#include "teacher/check_rows.h"
#endif

namespace overproof {
namespace {

using Arguments = std::vector<std::string>;

/// What signed statements say, in other people's formats, and what follows from them.
std::vector<VerbSpec> statement_verbs(const std::vector<Argument>& folder) {
  std::vector<VerbSpec> list;
  list.push_back({"audit statement", "Prints the signed in-toto statement of an artifact, for other tools.",
                  "overproof audit statement runs/smollm2-moe/int8 --pretty", folder, false, false,
                  verb_maker<StatementConfig>([](const CommonConfig& common, const StatementConfig& config, const Arguments& a) {
                    return audit_statement(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit sbom", "Writes the lineage as a bill of materials: CycloneDX or SPDX.",
                  "overproof audit sbom runs/smollm2-moe/int8 --format spdx --out int8.spdx.json", folder, false, false,
                  verb_maker<SbomConfig>([](const CommonConfig& common, const SbomConfig& config, const Arguments& a) {
                    return audit_sbom(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit croissant",
                  "Describes a corpus in Croissant, so that dataset loaders read it.",
                  "overproof audit croissant runs/smollm2-moe/corpus --out corpus.croissant.json",
                  {{"folder", "a corpus, or a run that holds one"}},
                  false,
                  false,
                  verb_maker<CroissantConfig>([](const CommonConfig& common, const CroissantConfig& config, const Arguments& a) {
                    return audit_croissant(config, a[0], common.json, std::cout);
                  })});
  list.push_back(
      {"audit openlineage", "Writes a finished run as OpenLineage events, one a line.",
       "overproof audit openlineage runs/smollm2-moe --out events.jsonl", folder, false, false,
       verb_maker<OpenLineageConfig>([](const CommonConfig& common, const OpenLineageConfig& config, const Arguments& a) {
         return audit_openlineage(config, a[0], common.json, std::cout);
       })});
  list.push_back({"audit summary",
                  "Writes the public summary of training content that the EU asks for, as far as it is recorded.",
                  "overproof audit summary runs/smollm2-moe/int8 --eu --out summary.md", folder, false, false,
                  verb_maker<SummaryConfig>([](const CommonConfig& common, const SummaryConfig& config, const Arguments& a) {
                    return audit_summary(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit policy",
                  "Says which licences and terms a model inherits, and whether the policy lets it go.",
                  "overproof audit policy runs/smollm2-moe/int8 --acknowledge GPL-2.0-or-later",
                  {{"artifact", "the model that would be given away", false}},
                  false,
                  false,
                  verb_maker<PolicyConfig>([](const CommonConfig& common, const PolicyConfig& config, const Arguments& a) {
                    return audit_policy(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit diff",
                  "Says what changed between two runs, or two artifacts and their ancestors.",
                  "overproof audit diff runs/smollm2-moe/int8 runs/another/int8",
                  {{"a", "a run folder, or one artifact in it"}, {"b", "the other"}},
                  false,
                  false,
                  verb_maker<DiffConfig>([](const CommonConfig& common, const DiffConfig& config, const Arguments& a) {
                    return audit_diff(config, a[0], a[1], common.json, std::cout);
                  })});
  return list;
}

}  // namespace

std::vector<VerbSpec> audit_verbs() {
  std::vector<VerbSpec> list;
  const std::vector<Argument> folder = {{"folder", "a run folder, or one artifact in it"}};
  list.push_back({"audit verify", "Checks every file, signature and statement, up to the teacher and the corpus.",
                  "overproof audit verify runs/smollm2-moe", folder, false, false,
                  verb_maker<VerifyConfig>([](const CommonConfig& common, const VerifyConfig& config, const Arguments& a) {
                    return audit_verify(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit trace",
                  "Says where a document was used, what a step read, what an artifact is made of, or where a passage stands.",
                  "overproof audit trace runs/smollm2-moe --document manpages-dev/usr/share/man/man2/accept.2.txt", folder, false,
                  false, verb_maker<TraceConfig>([](const CommonConfig& common, const TraceConfig& config, const Arguments& a) {
                    return audit_trace(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit impact",
                  "Lists the experts that a source of the corpus shaped most, or the sources that shaped an expert.",
                  "overproof audit impact runs/smollm2-moe --source manpages-dev", folder, false, false,
                  verb_maker<ImpactConfig>([](const CommonConfig& common, const ImpactConfig& config, const Arguments& a) {
                    return audit_impact(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit prove", "Proves that a document was, or was not, in the corpus, to anybody who has the public note key.",
                  "overproof audit prove runs/smollm2-moe --document mine.txt --out proof.json", folder, false, false,
                  verb_maker<ProveConfig>([](const CommonConfig& common, const ProveConfig& config, const Arguments& a) {
                    return audit_prove(config, a[0], common.json, std::cout);
                  })});
  list.push_back(
      {"audit check-proof",
       "Checks a proof of presence or absence; needs no run.",
       "overproof audit check-proof proof.json --checkpoint-key signing-key.pem.note.pub --document mine.txt",
       {{"proof", "what audit prove wrote"}},
       false,
       false,
       verb_maker<CheckProofConfig>([](const CommonConfig& common, const CheckProofConfig& config, const Arguments& a) {
         return audit_check_proof(config, a[0], common.json, std::cout);
       })});
  list.push_back(
      {"audit checkpoint", "Signs the roots of the corpus's trees as notes of transparency logs, and publishes their tiles.",
       "overproof audit checkpoint runs/smollm2-moe --name example.com/corpora --publish public/smollm2-moe", folder, false,
       false, verb_maker<CheckpointConfig>([](const CommonConfig& common, const CheckpointConfig& config, const Arguments& a) {
         return audit_checkpoint(config, a[0], common.json, std::cout);
       })});
  list.push_back({"audit salt",
                  "Makes the secret that a private corpus is committed under.",
                  "overproof audit salt --out keys/corpus.salt",
                  {},
                  false,
                  false,
                  verb_maker<SaltConfig>([](const CommonConfig& common, const SaltConfig& config, const Arguments&) {
                    return audit_salt(config, common.json, std::cout);
                  })});
  list.push_back({"audit report", "Writes the lineage as a self-contained page for people.",
                  "overproof audit report runs/smollm2-moe", folder, false, false,
                  verb_maker<ReportConfig>([](const CommonConfig& common, const ReportConfig& config, const Arguments& a) {
                    return audit_report(config, a[0], common.json, std::cout);
                  })});
  for (VerbSpec& v : statement_verbs(folder)) list.push_back(std::move(v));
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"audit rows",
                  "Computes rows of soft targets again from the teacher and compares them byte for byte.",
                  "overproof audit rows runs/smollm2-moe/soft-targets --rows 59 --seed 20261124 --record",
                  {{"targets", "a soft-targets artifact"}},
                  false,
                  false,
                  verb_maker<CheckRowsConfig>([](const CommonConfig&, const CheckRowsConfig& config, const Arguments& a) {
                    return audit_rows(config, a[0]);
                  })});
  list.push_back({"audit replay",
                  "Makes randomly drawn steps of a training again and compares weights, optimizer and losses.",
                  "overproof audit replay runs/smollm2-moe --segments 3 --seed 5f2c9a", folder, false, false,
                  verb_maker<ReplayConfig>([](const CommonConfig&, const ReplayConfig& config, const Arguments& a) {
                    return audit_replay(config, a[0]);
                  })});
  list.push_back(
      {"audit compare",
       "Tests whether two models are related; every p-value says what it rests on, and nothing is a verdict.",
       "overproof audit compare runs/smollm2-moe runs/suspect/int8 --controls runs/other/student --record",
       {{"a", "a run, or a model said to be the parent or teacher"}, {"b", "the suspect: a checkpoint folder or a .gguf file"}},
       false,
       false,
       verb_maker<CompareConfig>([](const CommonConfig& common, const CompareConfig& config, const Arguments& a) {
         return audit_compare(config, a[0], a[1], common.json, std::cout);
       })});
#endif
  list.push_back({"audit recompute", "Makes artifacts again from their parents and compares them byte for byte.",
                  "overproof audit recompute runs/smollm2-moe/int8", folder, false, false,
                  verb_maker<RecomputeConfig>([](const CommonConfig& common, const RecomputeConfig& config, const Arguments& a) {
                    return audit_recompute(config, a[0], common.json, std::cout);
                  })});
  return list;
}

}  // namespace overproof
