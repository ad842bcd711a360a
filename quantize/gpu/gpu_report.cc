#include "quantize/gpu/gpu_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "quantize/gpu/gpu_self_test.h"

namespace overproof {
namespace {

std::string text_of(const GpuDeviceInfo& d) {
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB", d.name, d.capability / 10, d.capability % 10,
                     d.multiprocessors, double(d.memory_bytes) / double(int64_t{1} << 30));
}

std::string text_of(const GpuCheck& c) {
  if (c.compared == 0) return fmt::format("FAILED {}: {}", c.name, c.note.empty() ? "nothing was compared" : c.note);
  const std::string how = c.note.empty() ? "" : fmt::format(" ({}; {:.3f} of the error allowed)", c.note, c.worst);
  return fmt::format("{} {}: {} of {} differ{}", c.passed ? "equal " : "FAILED", c.name, c.different, c.compared, how);
}

/// The self-test of one device; a device that cannot be opened is a failed check.
std::vector<GpuCheck> checks_of(const GpuApi& api, int32_t device) {
  try {
    GpuSession gpu(api, device);
    return gpu_self_test(gpu);
  } catch (const Error& e) {
    GpuCheck check;
    check.name = "open the device";
    check.note = e.what();
    return {check};
  }
}

Json json_of(const GpuCheck& c) {
  return {{"name", c.name},           {"passed", c.passed}, {"compared", c.compared},
          {"different", c.different}, {"worst", c.worst},   {"note", c.note}};
}

}  // namespace

Answer run_gpu(const GpuConfig& config) {
  const GpuPlugin plugin = open_gpu_plugin();
  std::string reason = plugin.reason;
  const std::vector<GpuDeviceInfo> devices =
      plugin.api == nullptr ? std::vector<GpuDeviceInfo>{} : gpu_devices(*plugin.api, reason);
  Answer answer;
  const auto say = [&](const std::string& line) { answer.text += line + "\n"; };
  Json list = Json::array();
  if (plugin.api != nullptr) say(fmt::format("plugin {}", plugin.file.lexically_normal().string()));
  if (!reason.empty()) say(reason);

  int64_t run = 0, failed = 0;
  for (size_t i = 0; i < devices.size(); ++i) {
    const GpuDeviceInfo& d = devices[i];
    say(fmt::format("device {}: {}", i, text_of(d)));
    Json entry = {
        {"name", d.name}, {"capability", d.capability}, {"multiprocessors", d.multiprocessors}, {"memory_bytes", d.memory_bytes}};
    if (d.capability < kOldestCapability) {
      say("  too old: the GPU path needs compute capability 8.0 or later");
    } else if (config.self_test) {
      entry["self_test"] = Json::array();
      for (const GpuCheck& check : checks_of(*plugin.api, int32_t(i))) {
        ++run;
        failed += !check.passed;
        say("  " + text_of(check));
        entry["self_test"].push_back(json_of(check));
      }
    }
    list.push_back(std::move(entry));
  }
  const std::string verdict = run == 0 ? "not run" : failed == 0 ? "passed" : "failed";
  if (config.self_test)
    say(run == 0 ? "self-test: not run, no device" : fmt::format("self-test: {}, {} of {} checks failed", verdict, failed, run));
  answer.json = {{"plugin", plugin.api == nullptr ? Json() : Json(plugin.file.lexically_normal().string())},
                 {"devices", std::move(list)},
                 {"reason", reason}};
  if (!config.self_test) return answer;
  answer.json["self_test"] = verdict;
  answer.exit_code = run == 0 ? 5 : failed == 0 ? 0 : 1;
  return answer;
}

}  // namespace overproof
