#pragma once
// The log of a training while it runs, for plots and for people, in a folder next to the artifact (Outputs::logs): steps.jsonl, and an
// event file for TensorBoard (formats/event_file.h). A reader sees every finished step. The artifact has its own steps.jsonl, and no stage
// reads this folder, so a disk that is full here stops nothing. Times make event files differ from run to run: they are no part of an
// artifact.

#include <fstream>
#include <string>

#include "core/file.h"
#include "core/json_fwd.h"

namespace overproof {

class LiveLog {
 public:
  /// Replaces the logs of `folder` by those of the steps so far, lines of steps.jsonl.
  LiveLog(const fs::path& folder, const std::string& so_far);
  LiveLog(const LiveLog&) = delete;
  LiveLog& operator=(const LiveLog&) = delete;
  /// A line of steps.jsonl.
  void add(const Json& line);
  const fs::path& path() const { return path_; }  ///< of steps.jsonl

 private:
  fs::path path_;
  std::ofstream lines_, events_;
};

}  // namespace overproof
