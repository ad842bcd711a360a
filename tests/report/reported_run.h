#pragma once
// The report of a synthetic run, with audit records and router counts in it.

#include <catch2/catch.hpp>
#include <stdexcept>

#include "audit/verify.h"
#include "records/router_counts.h"
#include "report/model.h"
#include "tests/audit/synthetic_run.h"

namespace overproof {

inline Report gathered(const fs::path& folder, const ReportTrust& trust = {}) { return gather_report(verify_run(folder, {}), trust); }

inline const ReportClaim& claim(const Report& report, std::string_view id) {
  for (const ReportClaim& c : report.claims)
    if (c.id == id) return c;
  FAIL("no claim " << id);
  throw std::logic_error("not reached");
}

inline Json replay_result(bool equal, int drawn = 2, int total = 10, const char* seed = "5f2c9a41") {
  Json segments = Json::array();
  for (int i = 0; i < drawn; ++i)
    segments.push_back({{"segment", i},
                        {"first_step", 2 * i},
                        {"end_step", 2 * i + 2},
                        {"from_step", 0},
                        {"equal", equal || i > 0},
                        {"difference", equal || i > 0 ? "" : "weights <differ>"}});
  return {{"artifact", "student"},
          {"holds", equal},
          {"mode", "bitwise"},
          {"tolerance", 0},
          {"seed", seed},
          {"steps", 10},
          {"steps_planned_equal", 10},
          {"segments_total", total},
          {"segments", segments},
          {"odds", {{{"forged_fraction", 0.05}, {"caught_at_least", 0.0975}}}},
          {"faults", Json::array()},
          {"notes", Json::array()}};
}

inline void record(const SyntheticRun& run, const std::string& file, const std::string& kind, const std::vector<std::string>& artifacts,
            const Json& result, const Key& key) {
  AuditRecord r{kind, {}, result, "", false};
  for (const std::string& a : artifacts) r.subjects.push_back({a, run.root(a), run.statement(a)});
  write_audit_record(run.path() / kAuditFolder / file, r, key);
}

/// The same run with router counts in the student, which takes sealing it and its children anew.
inline void add_router_counts_to(const SyntheticRun& run) {
  RouterCounts counts;
  counts.sources = {"<img src=x>", "books"};
  counts.layers = 2;
  counts.experts = 2;
  counts.tokens = {100, 300};
  counts.counts = {80, 20, 50, 50, 20, 280, 150, 150};
  fs::remove_all(run.path() / "student/routing");
  {
    OutputFolder out(run.path() / "student");
    write_router_counts(out, counts);
  }
  run.seal("student", "distill", "distilled-from",
           {{"student", "student-init"}, {"targets", "soft-targets"}, {"corpus", "corpus"}});
  run.seal("calibrated", "calibrate", "calibrated-from", {{"student", "student"}, {"teacher", "teacher"}, {"corpus", "corpus"}});
  run.seal("int8", "quantize", "quantized-from", {{"model", "calibrated"}});
  run.seal("evaluation", "evaluate", "evaluated", {{"teacher", "teacher"}, {"corpus", "corpus"}, {"int8", "int8"}});
}

}  // namespace overproof
