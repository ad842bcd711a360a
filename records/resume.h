#pragma once
// What a killed stage resumes from: resume.json in its scratch folder, next to the files whose beginnings it names.
//
//   line 1   {"files":[{"bytes":4096,"name":"rows.bin","sha256":"<hex>"}],"format_version":1,"progress":{...},"stage_key":"<hex>"}
//   line 2   SHA-256 of line 1 without its line end, hex
//
// `name` is relative to the folder of the files; `sha256` is of the first `bytes` bytes: a file may be longer, the rest was being
// written when the stage was killed. `progress` is the stage's own.
//
// Order of writing: the files are on the disk (OutputFile::sync or close), then resume.json is replaced by one rename, then files that
// only the previous resume.json named are removed. A kill at any moment leaves one of the two states whole.
//
// A scratch folder is not trusted. read() gives nothing unless key and all digests hold; what it gives is still checked by the stage,
// because another program may have written all of it.

#include <optional>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/json.h"

namespace overproof {

struct ResumePoint {
  std::vector<FileRecord> files;  ///< names, lengths and digests of their beginnings
  Json progress;                  ///< an object
};

class Resume {
 public:
  /// `scratch` has resume.json, `files` the files; by default the same folder. `stage_key`: identity of stage, configuration and inputs
  /// (Outputs::stage_key). With zeros nothing is ever read back.
  Resume(fs::path scratch, const Digest& stage_key, fs::path files = {});

  /// The last point that was written with the same key, if all of its files still begin with what they did. `folder`, when given, is
  /// the one that the files are in: it digests them, and then continues them (OutputFolder::resume). Throws IoError.
  std::optional<ResumePoint> read(OutputFolder* folder = nullptr);

  /// Replaces the point. The files must be on the disk. Throws IoError.
  void write(const ResumePoint& point);

  /// Removes resume.json, then the files of the last point that was read or written.
  void clear();

 private:
  void remove_files(const std::vector<FileRecord>& kept);
  fs::path scratch_, files_;
  Digest key_;
  std::vector<FileRecord> last_;
};

inline constexpr const char* kResumeFile = "resume.json";

/// The text of resume.json.
std::string encode_resume(const ResumePoint& point, const Digest& stage_key);

/// Nothing when the text is damaged, not of this format, or has another key. File names are safe relative names, each once.
std::optional<ResumePoint> parse_resume(std::string_view text, const Digest& stage_key);

}  // namespace overproof
