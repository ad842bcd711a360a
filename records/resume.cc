#include "records/resume.h"

#include <algorithm>
#include <set>

#include "core/error.h"

namespace overproof {
namespace {

constexpr int kFormatVersion = 1;
constexpr int64_t kMostBytes = int64_t{256} << 20;
constexpr size_t kMostFiles = 65536;

const char* const kMembers[] = {"files", "format_version", "progress", "stage_key"};

std::optional<Digest> digest_of(const Json& value) {
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  const bool hex = text.size() == 64 && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  return hex ? std::optional(Digest::from_hex(text)) : std::nullopt;
}

std::optional<FileRecord> record_of(const Json& value) {
  if (!value.is_object() || value.size() != 3 || !value.contains("name") || !value.contains("bytes") || !value.contains("sha256"))
    return std::nullopt;
  const Json &name = value["name"], &bytes = value["bytes"];
  const std::optional<Digest> digest = digest_of(value["sha256"]);
  if (!digest || !name.is_string() || !is_safe_relative_name(name.get_ref<const std::string&>())) return std::nullopt;
  if (!bytes.is_number_unsigned() || bytes.get<uint64_t>() > uint64_t(INT64_MAX)) return std::nullopt;
  return FileRecord{name.get<std::string>(), bytes.get<int64_t>(), *digest};
}

std::optional<ResumePoint> point_of(const Json& json, const Digest& stage_key) {
  if (!json.is_object() || json.size() != std::size(kMembers) ||
      !std::ranges::all_of(kMembers, [&](const char* name) { return json.contains(name); }))
    return std::nullopt;
  if (json["format_version"] != kFormatVersion || digest_of(json["stage_key"]) != stage_key) return std::nullopt;
  const Json& files = json["files"];
  if (!files.is_array() || files.size() > kMostFiles || !json["progress"].is_object()) return std::nullopt;
  ResumePoint point;
  std::set<std::string> names;
  for (const Json& file : files) {
    auto record = record_of(file);
    if (!record || !names.insert(record->name).second) return std::nullopt;
    point.files.push_back(std::move(*record));
  }
  point.progress = json["progress"];
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
    return point_of(parse_json(line, kResumeFile), stage_key);
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
