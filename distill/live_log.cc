#include "distill/live_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/json.h"
#include "formats/event_file.h"
#include "records/step_log.h"

namespace overproof {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

/// The numbers of a line by TensorBoard's tags: those in an object have its name before them.
void collect(const Json& object, const std::string& before, std::vector<std::pair<std::string, double>>& values) {
  for (const auto& [name, value] : object.items()) {
    if (value.is_object()) collect(value, before + name + "/", values);
    else if (value.is_number() && name != "step") values.emplace_back(before + name, value.get<double>());
  }
}

std::string record_of(const Json& line) {
  std::vector<std::pair<std::string, double>> values;
  collect(line, "", values);
  return scalar_record(now(), line.at("step").get<int64_t>(), values);
}

}  // namespace

LiveLog::LiveLog(const fs::path& folder, const std::string& so_far) : path_(folder / kStepLogFile) {
  std::error_code ignored;
  fs::create_directories(folder, ignored);
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (entry.path().filename().string().find(kEventFileMark) != std::string::npos) fs::remove(entry.path(), ignored);
  lines_.open(path_, std::ios::trunc);
  const double start = now();
  events_.open(folder / fmt::format("events.out.{}.{:.0f}.overproof", kEventFileMark, start), std::ios::trunc | std::ios::binary);
  events_ << event_file_start(start);
  lines_ << so_far << std::flush;
  for (size_t at = 0; at < so_far.size();) {
    const size_t end = std::min(so_far.find('\n', at), so_far.size());
    events_ << record_of(Json::parse(so_far.substr(at, end - at)));
    at = end + 1;
  }
  events_ << std::flush;
}

void LiveLog::add(const Json& line) {
  lines_ << line.dump() << "\n" << std::flush;
  events_ << record_of(line) << std::flush;
}

}  // namespace overproof
