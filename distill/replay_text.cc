// What a replay found, as JSON and as text.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/json.h"
#include "core/printable.h"
#include "distill/replay.h"
#include "provenance/signers.h"

namespace overproof {
namespace {

std::string text_of(const Replay& r) {
  std::string out;
  out += fmt::format("{} sha256:{}\n", printable(r.artifact), r.root.hex());
  if (r.steps > 0)
    out += fmt::format(
        "{} of {} steps: order, tokens, learning rate and batch root follow from statement, corpus and teacher's rows\n",
        r.steps_planned_equal, r.steps);
  if (r.files_equal > 0)
    out += fmt::format("{} files next to the weights{} made again: equal\n", r.files_equal,
                       r.counts_equal ? ", router counts included," : "");
  for (const ReplayedSegment& s : r.segments) {
    const std::string from =
        s.from_step == 0 ? "from the beginning" : fmt::format("from the state after step {}", s.from_step - 1);
    const std::string verdict = r.tolerance > 0 ? fmt::format("weights within {:.2g} of their movement", s.weight_difference)
                                                : "losses, weights and optimizer equal, bitwise";
    out += fmt::format("segment {} (steps {} to {}, {}{}): {}\n", s.number, s.first_step, s.end_step - 1, from,
                       s.drawn ? "" : "; the last, which is always made",
                       s.equal ? verdict : "NOT equal: " + printable(s.difference));
  }
  for (const std::string& fault : r.faults) out += fmt::format("FAIL: {}\n", printable(fault));
  for (const std::string& note : r.notes) out += fmt::format("note: {}\n", printable(note));
  if (!r.holds() && r.tolerance == 0 && !r.segments.empty())
    out +=
        "note: bitwise holds for the build and kind of processor that trained; with others, use --tolerance 1e-4 to "
        "distinguish rounding from forgery\n";
  if (!r.segments.empty()) {
    out += fmt::format("{} of {} segments drawn by the seed. Had they been forged, this draw would have caught\n", r.drawn(),
                       r.segments_total);
    const Json all = r.to_json();
    for (const Json& o : all.at("odds"))
      out += fmt::format("  {:>2.0f} % of them with a probability of at least {:.1f} % ({:.1f} % exactly, for {} forged)\n",
                         100 * o.at("forged_fraction").get<double>(), 100 * o.at("caught_at_least").get<double>(),
                         100 * o.at("caught").get<double>(), o.at("forged_segments").get<int64_t>());
  }
  out +=
      "Not shown: segments that were not made again; that the teacher's rows are the teacher's (audit rows); where the documents "
      "came from.\n";
  return out;
}

}  // namespace

int64_t Replay::drawn() const {
  return std::count_if(segments.begin(), segments.end(), [](const ReplayedSegment& s) { return s.drawn; });
}

bool Replay::holds() const {
  return faults.empty() && std::all_of(segments.begin(), segments.end(), [](const ReplayedSegment& s) { return s.equal; });
}

Json Replay::to_json() const {
  Json list = Json::array(), odds = Json::array();
  for (const ReplayedSegment& s : segments) {
    Json item = {{"segment", s.number},      {"first_step", s.first_step}, {"end_step", s.end_step},
                 {"from_step", s.from_step}, {"drawn", s.drawn},           {"equal", s.equal}};
    if (!s.difference.empty()) item["difference"] = s.difference;
    if (s.weight_difference >= 0) item["weight_difference"] = s.weight_difference;
    list.push_back(item);
  }
  const int64_t drawn = this->drawn();
  for (const double f : {0.01, 0.05, 0.1}) {
    const int64_t forged = std::max<int64_t>(1, std::llround(std::ceil(f * double(segments_total) - 1e-9)));
    odds.push_back({{"forged_fraction", f},
                    {"caught_at_least", 1 - std::pow(1 - f, double(drawn))},
                    {"forged_segments", forged},
                    {"caught", segments_total > 0 ? caught_exactly(segments_total, drawn, forged) : 0.0}});
  }
  return {{"artifact", artifact},
          {"root", "sha256:" + root.hex()},
          {"seed", seed},
          {"holds", holds()},
          {"mode", tolerance > 0 ? "tolerance" : "bitwise"},
          {"tolerance", tolerance},
          {"steps", steps},
          {"steps_planned_equal", steps_planned_equal},
          {"step_chain", chain},
          {"files_equal", files_equal},
          {"router_counts", counts_equal ? "equal" : "not compared"},
          {"segments_total", segments_total},
          {"segments", list},
          {"odds", odds},
          {"faults", faults},
          {"notes", notes}};
}

Answer audit_replay(const ReplayConfig& config, const fs::path& folder) {
  const AuditRecorder recorder(config.record, folder);
  const Replay result = replay(config, folder);
  const std::string line =
      recorder.write(result.artifact, {"replay", {{result.artifact, result.root, result.statement}}, result.to_json()});
  return with_signers({result.to_json(), text_of(result) + line, result.holds() ? 0 : 4}, folder, config.trust);
}

}  // namespace overproof
