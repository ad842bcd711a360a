#include "pipeline/run_log.h"

#include "core/error.h"
#include "core/json.h"
#include "pipeline/file_lock.h"

namespace overproof {
namespace {

/// An object; empty where there is no such file, or it is not ours.
Json read_log(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return Json::object();
  try {
    Json log = read_json(file);
    if (log.is_object()) return log;
  } catch (const FormatError&) {
  }
  return Json::object();
}

}  // namespace

void RunLog::remember(const std::string& artifact, const RunLogEntry& entry) const {
  const FileLock lock(lock_, FileLock::Busy::waits);
  Json log = read_log(file_);
  log[artifact] = {{"root", entry.root.hex()}, {"seconds", entry.seconds}, {"summary", entry.summary}};
  write_file_atomically(file_, dump_text(log, 1) + "\n");
}

}  // namespace overproof
