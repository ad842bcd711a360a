#pragma once
// Sends OpenLineage events while stages run. A lineage server is somebody else's: when it does not answer, answers no, or is
// slow, the run goes on with a warning; one that hung gets two seconds from then on, and after three failures in a row nothing
// more is sent.

#include <memory>
#include <string>

#include "audit/openlineage.h"

namespace overproof {

class LineageEvents {
 public:
  /// `url`: of the server, events go to <url>/api/v1/lineage ($OPENLINEAGE_ENDPOINT instead of the path); "" takes
  /// $OPENLINEAGE_URL, and where that is empty, too, nothing is sent. $OPENLINEAGE_API_KEY is sent as a bearer token. Throws
  /// UsageError when it is no http(s) URL.
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
  /// `events` may be nullptr: then nothing happens. `identity` tells runs of this process apart.
  StageEvents(LineageEvents* events, LineageEvent event, const std::string& identity);
  /// `inputs`: as they turned out to be; a stage that streams knows their digests only at its end.
  void complete(std::vector<LineageDataset> inputs, const LineageDataset& output);
  /// Call from a catch block.
  void fail(const std::string& message, bool interrupted);

 private:
  LineageEvents* events_;
  LineageEvent event_;
};

}  // namespace overproof
