#include "data/dep5.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>

#include "core/error.h"
#include "core/utf8.h"

namespace overproof {

namespace {

struct Field {
  std::string name;  // lower case: field names are case-insensitive
  std::string first_line, rest;
  int64_t offset = 0;
};
struct Stanza {
  std::vector<Field> fields;
  int64_t offset = 0;
  const Field* find(std::string_view name) const {
    const auto it = std::find_if(fields.begin(), fields.end(), [&](const Field& f) { return f.name == name; });
    return it == fields.end() ? nullptr : &*it;
  }
};

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

/// Control-file syntax (deb822): fields "Name: value", continued by lines that start with a blank; an empty line ends a
/// stanza; a line that starts with '#' is a comment.
std::vector<Stanza> parse_stanzas(std::string_view text, const std::filesystem::path& file) {
  std::vector<Stanza> stanzas;
  std::set<std::string> names;  // of the fields of the last stanza
  bool open = false;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    const auto offset = int64_t(at);
    at = end + 1;
    if (line.starts_with('#')) continue;
    if (trim(line).empty()) {
      open = false;
      continue;
    }
    if (line.front() == ' ' || line.front() == '\t') {
      if (!open) throw FormatError(file, offset, "a continuation line outside a field");
      std::string& rest = stanzas.back().fields.back().rest;
      rest.append(trim(line)).push_back('\n');
      continue;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0)
      throw FormatError(file, offset, "a line is neither a field nor a continuation");
    Field field{.first_line = std::string(trim(line.substr(colon + 1))), .offset = offset};
    for (const char c : line.substr(0, colon)) {
      if (c <= ' ' || c >= 127) throw FormatError(file, offset, "a field's name has blanks or special characters");
      field.name += c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
    }
    if (!open) {
      stanzas.push_back({{}, offset});
      names.clear();
    }
    open = true;
    if (!names.insert(field.name).second)
      throw FormatError(file, offset, fmt::format("duplicate field '{}' in a stanza", field.name));
    stanzas.back().fields.push_back(std::move(field));
  }
  return stanzas;
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  for (size_t at = 0; (at = text.find_first_not_of(" \t\r\n", at)) != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(" \t\r\n", at), text.size());
    list.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return list;
}

std::string_view last_part(std::string_view path) { return path.substr(path.rfind('/') + 1); }

/// Rule "name": see LicenseMatch.
bool name_matches(std::string_view pattern, std::string_view name) {
  if (pattern.substr(0, 3).size() < 3 || pattern.substr(0, 3).find_first_of("*?\\") != std::string_view::npos) return false;
  if (matches_files_pattern(pattern, name)) return true;
  const std::string_view suffix = pattern.substr(std::min(pattern.rfind('.'), pattern.size()));
  for (const std::string_view source : {".xml", ".sgml", ".rst", ".md", ".pod", ".texi", ".texinfo", ".adoc", ".txt"}) {
    if (suffix != source) continue;
    const auto as_source = [&](std::string_view stem) {
      return matches_files_pattern(pattern, std::string(stem) + std::string(suffix));
    };
    return as_source(name) || as_source(name.substr(0, name.rfind('.')));
  }
  return false;
}

/// "cpan/Archive-Tar/*" covers modules below Archive/Tar: "Archive/Tar", or "" when the pattern is of another kind.
std::string module_folder(std::string_view pattern) {
  if (!pattern.ends_with("/*")) return {};
  std::string name(last_part(pattern.substr(0, pattern.size() - 2)));
  if (name.empty() || name.find_first_of("*?\\") != std::string::npos) return {};
  std::replace(name.begin(), name.end(), '-', '/');
  return name;
}

/// True when `folder` is the file itself (without its suffix) or one of the folders that it lies in. Manual pages spell
/// the folders of a module with "::".
bool lies_in_module(std::string path, std::string_view folder) {
  for (size_t at = path.find("::"); at != std::string::npos; at = path.find("::", at)) path.replace(at, 2, 1, '/');
  for (size_t at = path.find(folder); at != std::string_view::npos; at = path.find(folder, at + 1)) {
    const std::string_view after = std::string_view(path).substr(at + folder.size());
    if ((at == 0 || path[at - 1] == '/') &&
        (after.starts_with('/') || (after.starts_with('.') && after.find('/') == std::string_view::npos))) {
      return true;
    }
  }
  return false;
}

}  // namespace

CopyrightFile parse_copyright(std::string_view text, const std::filesystem::path& file) {
  if (const int64_t at = invalid_utf8_at(text); at >= 0) throw FormatError(file, at, "is not UTF-8");
  const std::vector<Stanza> stanzas = parse_stanzas(text, file);
  if (stanzas.empty() || !stanzas[0].find("format")) {
    throw FormatError(file, 0, "is not a machine-readable copyright file: its first stanza has no Format field");
  }
  CopyrightFile out;
  out.format = stanzas[0].find("format")->first_line;
  if (out.format.find("copyright-format/1.") == std::string::npos && out.format.find("dep5") == std::string::npos &&
      out.format.find("dep/dep") == std::string::npos) {
    throw FormatError(file, stanzas[0].find("format")->offset, fmt::format("unknown format '{}'", out.format));
  }
  for (size_t i = 1; i < stanzas.size(); ++i) {
    const Stanza& stanza = stanzas[i];
    const Field *files = stanza.find("files"), *license = stanza.find("license"), *copyright = stanza.find("copyright");
    if (!license || license->first_line.empty()) {
      // Stanzas of other kinds may come between; a Files stanza without a licence is invalid.
      if (files) throw FormatError(file, stanza.offset, "a Files stanza names no licence");
      continue;
    }
    if (!files) {
      out.licenses.emplace(license->first_line, license->rest);
      continue;
    }
    FilesStanza entry{.license = license->first_line, .offset = stanza.offset};
    entry.patterns = words(files->first_line + '\n' + files->rest);
    if (entry.patterns.empty()) throw FormatError(file, files->offset, "a Files field has no pattern");
    if (copyright) entry.copyright = copyright->first_line + '\n' + copyright->rest;
    out.files.push_back(std::move(entry));
  }
  if (out.files.empty()) throw FormatError(file, 0, "has no Files stanza");
  return out;
}

bool matches_files_pattern(std::string_view pattern, std::string_view path) {
  // Greedy with one point to come back to: only the last '*' ever needs to take more.
  size_t p = 0, s = 0, star = std::string_view::npos, star_at = 0;
  while (s < path.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_at = s;
      continue;
    }
    const bool escaped = p + 1 < pattern.size() && pattern[p] == '\\';
    const bool same = p < pattern.size() && (escaped ? pattern[p + 1] == path[s] : pattern[p] == '?' || pattern[p] == path[s]);
    if (same) {
      p += escaped ? 2 : 1;
      ++s;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      s = ++star_at;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

LicenseMatch license_of(const CopyrightFile& copyright, std::string_view installed_path) {
  const auto normal = [](std::string_view pattern) { return pattern.starts_with("./") ? pattern.substr(2) : pattern; };
  const auto last_match = [&](std::string_view rule, const auto& matches) -> LicenseMatch {
    for (auto stanza = copyright.files.rbegin(); stanza != copyright.files.rend(); ++stanza) {
      for (const std::string& pattern : stanza->patterns) {
        if (matches(normal(pattern))) return {stanza->license, std::string(rule), pattern};
      }
    }
    return {};
  };
  // Longest tail first. A pattern such as "*.c" fits any tail, so it needs no folder; a tail without one matches too much.
  for (size_t at = 0; at < installed_path.size() && installed_path.find('/', at) != std::string_view::npos;
       at = installed_path.find('/', at) + 1) {
    const auto tail = installed_path.substr(at);
    auto found = last_match("path", [&](std::string_view p) { return p != "*" && matches_files_pattern(p, tail); });
    if (!found.rule.empty()) return found;
  }
  const auto in_module = [&](std::string_view p) {
    const std::string folder = p.starts_with("cpan/") || p.starts_with("dist/") || p.starts_with("ext/") ? module_folder(p) : "";
    return !folder.empty() && lies_in_module(std::string(installed_path), folder);
  };
  if (auto found = last_match("module", in_module); !found.rule.empty()) return found;
  const auto same_name = [&](std::string_view p) { return name_matches(last_part(p), last_part(installed_path)); };
  if (auto found = last_match("name", same_name); !found.rule.empty()) return found;
  auto found = last_match("package", [](std::string_view p) { return p == "*"; });
  return found.rule.empty() ? LicenseMatch{"", "none", ""} : found;
}

}  // namespace overproof
