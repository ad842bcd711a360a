// What a replay found, for people and for the record.

#include <fmt/format.h>

#include <ostream>

#include "core/json.h"
#include "core/printable.h"
#include "distill/replay.h"

namespace overproof {
namespace {

void print(const Replay& r, std::ostream& out) {
  out << fmt::format("{} sha256:{}\n", printable(r.artifact), r.root.hex());
  if (r.steps > 0)
    out << fmt::format(
        "{} of {} steps: order, tokens, learning rate and batch root follow from statement, corpus and teacher's rows\n",
        r.steps_planned_equal, r.steps);
  for (const ReplayedSegment& s : r.segments) {
    const std::string from =
        s.from_step == 0 ? "from the beginning" : fmt::format("from the state after step {}", s.from_step - 1);
    const std::string verdict = r.tolerance > 0 ? fmt::format("weights within {:.2g} of their movement", s.weight_difference)
                                                : "losses, weights and optimizer equal, bitwise";
    out << fmt::format("segment {} (steps {} to {}, {}): {}\n", s.number, s.first_step, s.end_step - 1, from,
                       s.equal ? verdict : "NOT equal: " + printable(s.difference));
  }
  for (const std::string& fault : r.faults) out << "FAIL: " << printable(fault) << '\n';
  for (const std::string& note : r.notes) out << "note: " << printable(note) << '\n';
  if (!r.holds() && r.tolerance == 0 && !r.segments.empty())
    out << "note: bitwise holds for the build and kind of processor that trained; with others, --tolerance 1e-4 tells rounding "
           "from forgery\n";
  if (!r.segments.empty()) {
    out << fmt::format("{} of {} segments drawn by the seed. Had they been forged, this draw would have caught\n",
                       r.segments.size(), r.segments_total);
    const Json all = r.to_json();
    for (const Json& o : all.at("odds"))
      out << fmt::format("  {:>2.0f} % of them with a probability of at least {:.1f} % ({:.1f} % exactly, for {} forged)\n",
                         100 * o.at("forged_fraction").get<double>(), 100 * o.at("caught_at_least").get<double>(),
                         100 * o.at("caught").get<double>(), o.at("forged_segments").get<int64_t>());
  }
  out << "Not shown: segments that were not drawn; that the teacher's rows are the teacher's (audit rows); where the documents "
         "came from.\n";
}

}  // namespace

int audit_replay(const ReplayConfig& config, const fs::path& folder, bool json, std::ostream& out) {
  const AuditRecorder recorder(config.record, folder);
  const Replay result = replay(config, folder);
  if (json) out << result.to_json().dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  else print(result, out);
  recorder.write(result.artifact, {"replay", {{result.artifact, result.root}}, result.to_json()}, json ? nullptr : &out);
  return result.holds() ? 0 : 4;
}

}  // namespace overproof
