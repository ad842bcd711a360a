#include "records/activation_statistics.h"

#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <set>

#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "formats/metadata.h"

namespace overproof {
ActivationStatistics::ActivationStatistics(const fs::path& path)
    : file_(fs::is_directory(path) ? path / kActivationsFile : path) {
  if (const std::string& version = metadata_text(file_, "format_version"); version != "1")
    throw FormatError(file_.path(), -1, fmt::format("format_version is '{}'; only 1 is known", version));
  model_root_ = metadata_digest(file_, "model_root");
  const Json map = parse_json(metadata_text(file_, "groups"), file_.path());
  if (!map.is_object()) throw FormatError(file_.path(), -1, "metadata 'groups' is not a JSON object");
  std::set<std::string> names;
  for (const auto& [weight, group] : map.items()) {
    if (!group.is_string()) throw FormatError(file_.path(), -1, fmt::format("metadata 'groups': the group of '{}' is not a string", weight));
    groups_.emplace(weight, group.get<std::string>());
    names.insert(group.get<std::string>());
  }
  for (const std::string& group : names) {
    const TensorInfo &amax = file_.info(group + ".amax"), &samples = file_.info(group + ".samples");
    if (amax.shape.size() != 1 || amax.shape[0] < 1 || samples.shape.size() != 2)
      throw FormatError(file_.path(), -1, fmt::format("'{}' has no amax [in] and samples [n, in]", group));
    const int64_t in = amax.shape[0];
    require_tensor(file_, group + ".amax", DType::f32, {in});
    require_tensor(file_, group + ".range", DType::f32, {2});
    require_tensor(file_, group + ".samples", DType::f16, {samples.shape[0], in});
    require_tensor(file_, group + ".tokens", DType::i64, {2});
    if (file_.contains(group + ".square")) require_tensor(file_, group + ".square", DType::f32, {in});
    if (has_hessian(group)) require_tensor(file_, group + ".hessian", DType::f32, {in, in});
    counts(group);
  }
}

const std::string* ActivationStatistics::group_of(std::string_view weight) const {
  const auto found = groups_.find(weight);
  return found == groups_.end() ? nullptr : &found->second;
}

int64_t ActivationStatistics::columns(const std::string& group) const { return file_.info(group + ".amax").shape[0]; }

int64_t ActivationStatistics::tokens(const std::string& group) const {
  const std::vector<int64_t> both = counts(group);
  return both[0] + both[1];
}

std::vector<int64_t> ActivationStatistics::counts(const std::string& group) const {
  std::vector<int64_t> both(2);
  std::memcpy(both.data(), file_.bytes(group + ".tokens").data(), 2 * sizeof(int64_t));
  if (both[0] < 0 || both[1] < 0 || !checked_add(both[0], both[1]))
    throw FormatError(file_.path(), file_.offset(group + ".tokens"), fmt::format("'{}.tokens' has a negative count, or counts that sum to more than 2^63 - 1", group));
  return both;
}

std::vector<float> ActivationStatistics::values(const std::string& name) const {
  const TensorInfo& info = file_.info(name);
  std::vector<float> result(size_t(info.elements()));
  elements_to_f32(info.dtype, file_.bytes(name).data(), result);
  for (size_t i = 0; i < result.size(); ++i)
    if (!std::isfinite(result[i]))
      throw FormatError(file_.path(), file_.offset(name) + int64_t(i) * dtype_bytes(info.dtype),
                        fmt::format("'{}' has an infinity or NaN", name));
  return result;
}

std::vector<float> ActivationStatistics::squares(const std::string& group) const {
  std::vector<float> result;
  if (file_.contains(group + ".square")) {
    result = values(group + ".square");
  } else if (has_hessian(group)) {
    const std::span<const float> hessian = file_.values<float>(group + ".hessian");
    const auto n = size_t(columns(group));
    for (size_t i = 0; i < n; ++i) result.push_back(hessian[i * n + i]);
  }
  for (const float x : result)
    if (!(x >= 0) || !std::isfinite(x))
      throw FormatError(file_.path(), file_.offset(group + ".amax"), fmt::format("'{}' has a mean square that is negative or not finite", group));
  return result;
}

LinearStatistics ActivationStatistics::read(const std::string& group, Parts parts) const {
  LinearStatistics s;
  s.columns = columns(group);
  s.amax = values(group + ".amax");
  for (const float a : s.amax)
    if (a < 0)
      throw FormatError(file_.path(), file_.offset(group + ".amax"), fmt::format("'{}.amax' has a negative value", group));
  s.square = squares(group);
  const std::vector<float> range = values(group + ".range");
  s.least = range[0];
  s.largest = range[1];
  const std::vector<int64_t> both = counts(group);
  s.tokens = both[0] + both[1];
  s.forced_tokens = both[1];
  s.sample_rows = file_.info(group + ".samples").shape[0];
  if (parts == Parts::samples) s.samples = values(group + ".samples");
  if (parts == Parts::hessian && has_hessian(group)) s.hessian = values(group + ".hessian");
  return s;
}

}  // namespace overproof
