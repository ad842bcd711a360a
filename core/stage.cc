#include "core/stage.h"

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {
const InputArtifact& bound(const std::map<std::string, InputArtifact>& slots, const std::string& slot) {
  const auto it = slots.find(slot);
  if (it == slots.end()) throw UsageError("no artifact is given for the input '" + slot + "'");
  return it->second;
}
}  // namespace

const fs::path& Inputs::path(const std::string& slot) const { return bound(slots_, slot).path; }
const Digest& Inputs::root(const std::string& slot) const { return bound(slots_, slot).root; }

const std::vector<FileRecord>& Outputs::input_digests(const std::string& slot) const {
  static const std::vector<FileRecord> none;
  const auto it = input_digests_.find(slot);
  return it == input_digests_.end() ? none : it->second;
}

StageReport::StageReport() : metrics_ptr(std::make_unique<Json>(Json::object())) {}
StageReport::StageReport(const StageReport& other)
    : metrics_ptr(std::make_unique<Json>(*other.metrics_ptr)), summary(other.summary) {}
StageReport::StageReport(StageReport&&) noexcept = default;
StageReport& StageReport::operator=(StageReport&&) noexcept = default;
StageReport::~StageReport() = default;

}  // namespace overproof
