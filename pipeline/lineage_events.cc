#include "pipeline/lineage_events.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

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

/// 128 random bits in hex: two runs of a stage have two names, also in different processes.
std::string random_identity() {
  std::random_device source;
  std::string text;
  for (int i = 0; i < 4; ++i) text += fmt::format("{:08x}", source());
  return text;
}

}  // namespace

LineageEvents::LineageEvents(const std::string& url) : key_(environment("OPENLINEAGE_API_KEY")) {
  std::string base = url.empty() ? environment("OPENLINEAGE_URL") : url;
  if (base.empty()) return;
  if (!base.starts_with("http://") && !base.starts_with("https://"))
    throw UsageError(
        fmt::format("'{}' is not the URL of a lineage server, which begins with http:// or https://", url_without_secrets(base)));
  while (base.ends_with('/')) base.pop_back();
  std::string path = environment("OPENLINEAGE_ENDPOINT");
  if (path.empty()) path = "api/v1/lineage";
  endpoint_ = base + (path.starts_with('/') ? "" : "/") + path;
}

void LineageEvents::send(const LineageEvent& event) {
  if (!enabled() || failures_ >= kMostFailures) return;
  HttpLimits limits;
  // Short timeout after the first failure, and after Ctrl-C.
  if (failures_ > 0 || event.type == "ABORT") limits = {1000, 2000};
  const HttpAnswer answer =
      post_json(endpoint_, dump_text(openlineage_event(event)), key_, limits);
  if (answer.problem.empty() && answer.status >= 200 && answer.status < 300) {
    failures_ = 0;
    return;
  }
  ++failures_;
  const std::string what = answer.problem.empty() ? fmt::format("HTTP status {}", answer.status) : answer.problem;
  fmt::print(stderr, "overproof: warning: the lineage server {} did not accept the event {} of {}: {}{}\n",
             printable(url_without_secrets(endpoint_)), event.type, printable(event.job), printable(what.substr(0, 200)),
             failures_ >= kMostFailures ? "; no more events are sent, 'overproof audit openlineage' writes them afterwards" : "");
}

StageEvents::StageEvents(LineageEvents* events, LineageEvent event)
    : events_(events && events->enabled() ? events : nullptr), event_(std::move(event)) {
  if (!events_) return;
  event_.run_id = uuid_of(sha256("openlineage run " + random_identity() + " " + event_.job));
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
