#include <iostream>

#include "audit/report.h"
#include "audit/trace.h"
#include "audit/verify.h"
#include "cli/stage_verb.h"
#include "pipeline/recompute.h"
#ifdef OVERPROOF_WITH_TORCH
#include "distill/replay.h"
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
  list.push_back({"audit replay", "Makes randomly drawn steps of a training again and compares weights, optimizer and losses bitwise.",
                  "overproof audit replay runs/smollm2-moe --segments 3 --seed 5f2c9a", folder, false, false,
                  verb_maker<ReplayConfig>([](const CommonConfig& common, const ReplayConfig& config, const Arguments& a) {
                    return audit_replay(config, a[0], common.json, std::cout);
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
