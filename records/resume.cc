#include "records/resume.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json_object.h"

namespace overproof {
namespace {

constexpr int kFormatVersion = 1;
constexpr int64_t kMostBytes = int64_t{256} << 20;
constexpr size_t kMostFiles = 65536;

/// Throws FormatError.
ResumePoint point_of(const JsonObject& json, const Digest& stage_key) {
  json.expect_only({"files", "format_version", "progress", "stage_key"});
  json.integer("format_version", kFormatVersion, kFormatVersion);
  if (json.digest("stage_key") != stage_key) json.fail("has another stage key");
  const std::vector<JsonObject> files = json.objects("files");
  if (files.size() > kMostFiles) json.fail("has too many files");
  ResumePoint point{{}, json.object("progress").json()};
  std::set<std::string> names;
  for (const JsonObject& file : files) {
    file.expect_only({"name", "bytes", "sha256"});
    point.files.push_back({file.text("name"), file.integer("bytes", 0, INT64_MAX), file.digest("sha256")});
    if (const std::string& name = point.files.back().name; !is_safe_relative_name(name) || !names.insert(name).second)
      file.fail("name", "is not the name of a file here, or is there twice");
  }
  return point;
}

}  // namespace

std::string encode_resume(const ResumePoint& point, const Digest& stage_key) {
  OVERPROOF_CHECK(point.progress.is_object());
  Json files = Json::array();
  for (const FileRecord& r : point.files) files.push_back({{"name", r.name}, {"bytes", r.bytes}, {"sha256", r.digest.hex()}});
  const std::string line = dump_text({{"format_version", kFormatVersion},
                                      {"stage_key", stage_key.hex()},
                                      {"files", std::move(files)},
                                      {"progress", point.progress}});
  return line + "\n" + sha256(line).hex() + "\n";
}

std::optional<ResumePoint> parse_resume(std::string_view text, const Digest& stage_key) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(0, end);
  if (text.substr(end + 1) != sha256(line).hex() + "\n") return std::nullopt;
  try {
    const Json json = parse_json(line, kResumeFile);
    return point_of(JsonObject(json, kResumeFile), stage_key);
  } catch (const FormatError&) {
    return std::nullopt;
  }
}

Resume::Resume(fs::path scratch, const Digest& stage_key, fs::path files)
    : scratch_(std::move(scratch)), files_(files.empty() ? scratch_ : std::move(files)), key_(stage_key) {}

std::optional<ResumePoint> Resume::read(OutputFolder* folder) {
  const fs::path file = scratch_ / kResumeFile;
  std::error_code error;
  if (key_ == Digest{} || !fs::is_regular_file(fs::symlink_status(file, error))) return std::nullopt;
  if (fs::file_size(file, error) > uintmax_t(kMostBytes) || error) return std::nullopt;
  std::optional<ResumePoint> point = parse_resume(read_file(file, kMostBytes), key_);
  if (!point) return std::nullopt;
  OutputFolder checked(files_, Unfinished::kept);
  if (!(folder ? *folder : checked).resume(point->files)) return std::nullopt;
  last_ = point->files;
  return point;
}

void Resume::write(const ResumePoint& point) {
  write_file_atomically(scratch_ / kResumeFile, encode_resume(point, key_));
  remove_files(point.files);
  last_ = point.files;
}

void Resume::clear() {
  std::error_code ignored;
  fs::remove(scratch_ / kResumeFile, ignored);
  remove_files({});
  last_.clear();
}

void Resume::remove_files(const std::vector<FileRecord>& kept) {
  std::error_code ignored;
  for (const FileRecord& old : last_)
    if (std::ranges::none_of(kept, [&](const FileRecord& r) { return r.name == old.name; }))
      fs::remove(files_ / fs::path(old.name), ignored);
}

}  // namespace overproof
