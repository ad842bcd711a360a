#include <iostream>

#include "audit/impact.h"
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
  list.push_back({"audit trace", "Says where a document was used, what a step read, what an artifact is made of, or where a passage stands.",
                  "overproof audit trace runs/smollm2-moe --document manpages-dev/usr/share/man/man2/accept.2.txt", folder, false, false,
                  verb_maker<TraceConfig>([](const CommonConfig& common, const TraceConfig& config, const Arguments& a) {
                    return audit_trace(config, a[0], common.json, std::cout);
                  })});
  list.push_back({"audit impact", "Lists the experts that a source of the corpus shaped most, or the sources that shaped an expert.",
                  "overproof audit impact runs/smollm2-moe --source manpages-dev", folder, false, false,
                  verb_maker<ImpactConfig>([](const CommonConfig& common, const ImpactConfig& config, const Arguments& a) {
                    return audit_impact(config, a[0], common.json, std::cout);
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
