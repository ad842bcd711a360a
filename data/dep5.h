#pragma once
// Machine-readable copyright files of Debian packages ("DEP-5"), and which licence covers an installed file.
// Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace overproof {

struct FilesStanza {
  std::vector<std::string> patterns;  ///< relative to the source's root; '*' matches any characters, '/' too, '?' one
  std::string license;                ///< short name: "GPL-2+"
  std::string copyright;
  int64_t offset = 0;  ///< of the stanza in the file, in bytes
};

struct CopyrightFile {
  std::string format;                           ///< the Format field
  std::vector<FilesStanza> files;               ///< in the order of the file
  std::map<std::string, std::string> licenses;  ///< texts of standalone License stanzas, by short name
};

/// Throws FormatError when the file is not machine-readable, lacks a field that its stanza needs, or is malformed.
CopyrightFile parse_copyright(std::string_view text, const std::filesystem::path& file);

/// Whether `pattern` matches the whole of `path`. A backslash takes the next '*', '?' or '\' literally.
/// Time: O(pattern x path).
bool matches_files_pattern(std::string_view pattern, std::string_view path);

/// How a licence was found; weaker rules come later.
struct LicenseMatch {
  std::string license;
  /// "path": a pattern matches a tail of the installed path that has at least one folder;
  /// "module": a pattern covers the CPAN distribution whose modules lie in the installed folder;
  /// "name": a pattern's last part, which must begin with three plain characters, matches the file's name, or would if the
  /// file still had the format that it was rendered from (fhs.xml for fhs.txt);
  /// "package": the package's `Files: *`; "none": nothing matches and there is no `Files: *`.
  std::string rule;
  std::string pattern;
};

/// The licence of a file by its installed path ("usr/share/man/man2/accept.2"), although patterns refer to the source
/// tree. Rules are tried in the order of LicenseMatch::rule. Within a rule a longer tail of the path goes first, and among
/// stanzas that match it the last wins, as the specification requires. The catch-all "*" takes part in "package" only.
LicenseMatch license_of(const CopyrightFile& copyright, std::string_view installed_path);

}  // namespace overproof
