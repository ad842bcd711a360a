#include <iostream>

#include "audit/prove.h"
#include "audit/report.h"
#include "audit/trace.h"
#include "audit/verify.h"
#include "cli/stage_verb.h"
#ifdef OVERPROOF_WITH_TORCH
#include "teacher/check_rows.h"
#endif

namespace overproof {
namespace {

using Arguments = std::vector<std::string>;

}  // namespace

std::vector<VerbSpec> audit_verbs() {
  std::vector<VerbSpec> list;
  const std::vector<Argument> folder = {{"folder", "a run folder, or one artifact in it"}};
  list.push_back({"audit verify", "Checks every file, signature and statement, up to the teacher and the corpus.",
                  "overproof audit verify runs/smollm2-moe", folder, false, false,
                  verb_maker<VerifyConfig>([](const CommonConfig& common, const VerifyConfig& config, const Arguments& a) {
                    return audit_verify(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit trace", "Says whether, at which steps and at which teacher rows a document was used.",
                  "overproof audit trace runs/smollm2-moe --document manpages-dev/usr/share/man/man2/accept.2.txt", folder, false, false,
                  verb_maker<TraceConfig>([](const CommonConfig& common, const TraceConfig& config, const Arguments& a) {
                    return audit_trace(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit prove", "Proves that a document was, or was not, in the corpus, to anybody who has the public note key.",
                  "overproof audit prove runs/smollm2-moe --document mine.txt --out proof.json", folder, false, false,
                  verb_maker<ProveConfig>([](const CommonConfig& common, const ProveConfig& config, const Arguments& a) {
                    return audit_prove(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit check-proof", "Checks a proof of presence or absence; needs no run.",
                  "overproof audit check-proof proof.json --checkpoint-key signing-key.pem.note.pub --document mine.txt", {{"proof", "what audit prove wrote"}},
                  false, false, verb_maker<CheckProofConfig>([](const CommonConfig& common, const CheckProofConfig& config, const Arguments& a) {
                    return audit_check_proof(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit checkpoint", "Signs the roots of the corpus's trees as notes of transparency logs, and publishes their tiles.",
                  "overproof audit checkpoint runs/smollm2-moe --name example.com/corpora --publish public/smollm2-moe", folder, false, false,
                  verb_maker<CheckpointConfig>([](const CommonConfig& common, const CheckpointConfig& config, const Arguments& a) {
                    return audit_checkpoint(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit salt", "Makes the secret that a private corpus is committed under.", "overproof audit salt --out keys/corpus.salt", {}, false, false,
                  verb_maker<SaltConfig>([](const CommonConfig& common, const SaltConfig& config, const Arguments&) {
                    return audit_salt(config, common.json, std::cout);
                  })});
  list.push_back({"audit report", "Writes the lineage as a self-contained page for people.", "overproof audit report runs/smollm2-moe", folder,
                  false, false, verb_maker<ReportConfig>([](const CommonConfig& common, const ReportConfig& config, const Arguments& a) {
                    return audit_report(config, a[0], common.json, std::cout);
                  })});
#ifdef OVERPROOF_WITH_TORCH
  list.push_back({"audit rows", "Asks the teacher again and compares with the soft targets, byte for byte.",
                  "overproof audit rows runs/smollm2-moe/soft-targets --rows 16 --seed 20261124", {{"targets", "a soft-targets artifact"}}, false, false,
                  verb_maker<CheckRowsConfig>([](const CommonConfig& common, const CheckRowsConfig& config, const Arguments& a) {
                    return check_rows(config, a[0], common.json, std::cout);
                  })});
#endif
  return list;
}

}  // namespace overproof
