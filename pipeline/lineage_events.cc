#include "pipeline/lineage_events.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "core/http.h"

namespace overproof {
namespace {

constexpr int kMostFailures = 3;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string now() {
  using std::chrono::duration_cast;
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = duration_cast<std::chrono::seconds>(since);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::time_t(seconds.count())),
                     duration_cast<std::chrono::milliseconds>(since - seconds).count());
}

/// When the kernel started this process, and its number: the same after it went on as another program (cli/light/main.cc), so
/// that the same run is not announced under two names.
std::string process_identity() {
  std::ifstream file("/proc/self/stat");
  std::string stat((std::istreambuf_iterator<char>(file)), {});
  const size_t name = stat.rfind(')');  // the program's name changes, and may hold anything
  std::string started;
  size_t field = 0;
  for (size_t at = name == std::string::npos ? stat.size() : name + 1; at < stat.size(); ++at) {
    if (stat[at] == ' ') ++field;
    else if (field == 20) started += stat[at];  // field 22 of proc(5)
  }
  return fmt::format("{}:{}", ::getpid(), started);
}

}  // namespace

LineageEvents::LineageEvents(const std::string& url) : key_(environment("OPENLINEAGE_API_KEY")) {
  std::string base = url.empty() ? environment("OPENLINEAGE_URL") : url;
  if (base.empty()) return;
  if (!base.starts_with("http://") && !base.starts_with("https://"))
    throw UsageError(
        fmt::format("'{}' is no URL of a lineage server; it begins with http:// or https://", url_without_secrets(base)));
  while (base.ends_with('/')) base.pop_back();
  std::string path = environment("OPENLINEAGE_ENDPOINT");
  if (path.empty()) path = "api/v1/lineage";
  endpoint_ = base + (path.starts_with('/') ? "" : "/") + path;
}

void LineageEvents::send(const LineageEvent& event) {
  if (!enabled() || failures_ >= kMostFailures) return;
  HttpLimits limits;
  // Whom nobody answered once is not waited for long again; and after Ctrl-C somebody waits.
  if (failures_ > 0 || event.type == "ABORT") limits = {1000, 2000};
  const HttpAnswer answer =
      post_json(endpoint_, openlineage_event(event).dump(-1, ' ', false, Json::error_handler_t::replace), key_, limits);
  if (answer.problem.empty() && answer.status >= 200 && answer.status < 300) {
    failures_ = 0;
    return;
  }
  ++failures_;
  const std::string what = answer.problem.empty() ? fmt::format("answers {}", answer.status) : answer.problem;
  fmt::print(stderr, "overproof: warning: the lineage server {} did not take the event {} of {}: {}{}\n",
             printable(url_without_secrets(endpoint_)), event.type, printable(event.job), printable(what.substr(0, 200)),
             failures_ >= kMostFailures ? "; no more are sent, 'overproof audit openlineage' writes them afterwards" : "");
}

StageEvents::StageEvents(LineageEvents* events, LineageEvent event, const std::string& identity)
    : events_(events && events->enabled() ? events : nullptr), event_(std::move(event)) {
  if (!events_) return;
  event_.run_id = uuid_of(sha256("openlineage run " + process_identity() + " " + event_.job + " " + identity));
  event_.type = "START";
  event_.time = now();
  events_->send(event_);
}

void StageEvents::complete(std::vector<LineageDataset> inputs, const LineageDataset& output) {
  if (!events_) return;
  event_.type = "COMPLETE";
  event_.time = now();
  event_.inputs = std::move(inputs);
  event_.outputs = {output};
  events_->send(event_);
}

void StageEvents::fail(const std::string& message, bool interrupted) {
  if (!events_) return;
  event_.type = interrupted ? "ABORT" : "FAIL";
  event_.time = now();
  event_.error = printable(message);
  events_->send(event_);
}

}  // namespace overproof
