#pragma once
// Sends OpenLineage events while stages run. A failure of the lineage server never fails the run: it is a warning. After the first
// failure the timeout is two seconds, and after three failures in a row no more events are sent.

#include <memory>
#include <string>

#include "audit/openlineage.h"

namespace overproof {

class LineageEvents {
 public:
  /// `url` of the server: events are posted to <url>/api/v1/lineage ($OPENLINEAGE_ENDPOINT replaces the path). "": $OPENLINEAGE_URL;
  /// where that is empty, too, no events are sent. $OPENLINEAGE_API_KEY is sent as a bearer token. Throws UsageError for another
  /// kind of URL.
  explicit LineageEvents(const std::string& url);
  bool enabled() const { return !endpoint_.empty(); }
  void send(const LineageEvent& event);

 private:
  std::string endpoint_, key_;
  int failures_ = 0;
};

/// One run of one stage: START when made, ABORT or FAIL unless it was completed.
class StageEvents {
 public:
  /// `events` may be nullptr: then nothing is sent.
  StageEvents(LineageEvents* events, LineageEvent event);
  /// `inputs` again, because a stage that streams knows their digests only at its end.
  void complete(std::vector<LineageDataset> inputs, const LineageDataset& output);
  /// Call from a catch block.
  void fail(const std::string& message, bool interrupted);

 private:
  LineageEvents* events_;
  LineageEvent event_;
};

}  // namespace overproof
