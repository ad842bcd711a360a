#include "data/corpus_sources.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/parallel.h"
#include "core/utf8.h"
#include "data/chat_records.h"
#include "data/corpus.h"
#include "data/dep5.h"

namespace overproof {
namespace {

constexpr size_t kRecordsAtOnce = 16384;
constexpr size_t kMostKeysNamed = 12;
constexpr size_t kMostCauseBytes = 300;  // a parser may quote a record of a megabyte
constexpr const char* kUnspecified = "unspecified";

/// A file name as text: bytes that are not UTF-8 as \xNN, so that the file can be found by it.
std::string shown(std::string_view name) {
  std::string out;
  for (size_t at = 0; at < name.size();) {
    const Utf8Char c = decode_utf8(name.substr(at));
    if (c.valid) out += name.substr(at, size_t(c.bytes));
    else
      for (int i = 0; i < c.bytes; ++i) out += fmt::format("\\x{:02x}", uint8_t(name[at + size_t(i)]));
    at += size_t(c.bytes);
  }
  return out;
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  return text;
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

bool is_text_name(const fs::path& file) {
  const std::string extension = lower(file.extension().string());
  return extension == ".txt" || extension == ".md";
}

bool is_table_name(const fs::path& file) {
  const std::string extension = lower(file.extension().string());
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".json";
}

/// The lister of one place.
class Lister {
 public:
  Lister(CandidateList& list, size_t folder, int64_t most_broken) : list_(list), folder_(folder), most_broken_(most_broken) {}

  void list() {
    DocumentFolder& folder = list_.folders[folder_];
    const fs::path& path = folder.path;
    if (!fs::is_directory(path)) {
      if (!fs::is_regular_file(path)) throw IoError(path, "the corpus's source is neither a folder nor a file", ENOENT);
      if (is_table_name(path)) {
        folder.table.emplace(path);
        list_table();
      } else if (const std::string extension = lower(path.extension().string()); extension == ".csv" || extension == ".tsv") {
        throw UsageError(fmt::format("{}: is a table in {}: write its texts into a .jsonl file, one {{\"text\": ...}} a line (where the table itself "
                                     "is the text, call it .txt)",
                                     path.string(), extension == ".csv" ? "CSV" : "TSV"));
      } else {
        add_text(path, path.filename().string(), path.stem().string(), nullptr);
      }
      return;
    }
    if (const fs::path table = path / "documents.jsonl"; fs::exists(table)) {
      folder.table.emplace(table);
      list_table();
    } else {
      list_folder();
    }
  }

  /// Of a folder without documents: what it holds instead, for a message.
  std::string found_instead() const {
    if (!first_table_.empty()) return fmt::format("; it holds '{}': give that file", first_table_);
    return first_passed_over_.empty() ? "" : fmt::format("; it holds '{}', which is neither", first_passed_over_);
  }

 private:
  [[noreturn]] void refuse(const fs::path& file, int64_t offset, const BrokenDocument& broken) const {
    throw FormatError(file, offset, fmt::format("{}{} (broken documents are skipped with allow-broken)", line_prefix(broken.line), broken.cause));
  }
  void add_broken(BrokenDocument broken, const fs::path& file, int64_t offset) {
    list_.broken.push_back(std::move(broken));
    if (int64_t(list_.broken.size()) > most_broken_) refuse(file, offset, list_.broken.back());
  }

  std::optional<CopyrightFile> read_copyright(const fs::path& folder, const std::string& called) {
    const fs::path path = folder / "copyright";
    if (!fs::is_regular_file(path)) return std::nullopt;
    try {
      return parse_copyright(read_file(path, 64 << 20), path);
    } catch (const FormatError& e) {  // free-form, as every third of a Debian system
      if (unread_++ == 0) first_unread_ = shown(called);
      return std::nullopt;
    }
  }

  void add_text(const fs::path& file, const std::string& name, const std::string& source, const CopyrightFile* copyright) {
    throw_if_interrupted();
    if (invalid_utf8_at(source) >= 0 || invalid_utf8_at(name) >= 0) {
      add_broken({shown(name), 0, fmt::format("the name '{}' is not UTF-8; rename the file", shown(name))}, shown(file.string()), -1);
      return;
    }
    LicenseMatch match{kUnspecified, "none", ""};
    const std::string installed = name.starts_with(source + "/") ? name.substr(source.size() + 1) : name;
    if (copyright) match = license_of(*copyright, installed);
    if (match.license.empty()) match.license = kUnspecified;
    list_.all.push_back({name, -1, 0, list_.word(source), list_.word(match.license), list_.word(match.rule), uint8_t(folder_)});
  }

  /// "a/b" of a/b.txt: the name that the file has installed; other endings stay, so that no two files have one name.
  static std::string text_name(const fs::path& file, const fs::path& folder) {
    fs::path name = file.lexically_relative(folder);
    if (name.extension() == ".txt") name.replace_extension();
    return name.generic_string();
  }

  void list_tree(const fs::path& folder, const std::string& source, const CopyrightFile* copyright) {
    for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
      if (is_hidden(entry->path())) {
        entry.disable_recursion_pending();
        continue;
      }
      if (!entry->is_regular_file()) continue;
      if (is_text_name(entry->path())) add_text(entry->path(), source + "/" + text_name(entry->path(), folder), source, copyright);
      else if (entry->path().filename() != "copyright") pass_over(entry->path());
    }
  }

  void pass_over(const fs::path& file) {
    if (passed_over_++ == 0) first_passed_over_ = shown(file.filename().string());
    if (is_table_name(file) && first_table_.empty()) first_table_ = shown(file.filename().string());
  }

  /// Folders are packages, with the copyright file of each; files next to them are documents, too.
  void list_folder() {
    const fs::path& path = list_.folders[folder_].path;
    const std::string own = fs::canonical(path).filename().string();
    const auto here = read_copyright(path, own);
    for (const auto& entry : fs::directory_iterator(path)) {
      if (is_hidden(entry.path())) continue;
      const std::string name = entry.path().filename().string();
      if (entry.is_directory()) {
        const auto copyright = read_copyright(entry.path(), name);
        list_tree(entry.path(), name, copyright ? &*copyright : nullptr);
      } else if (entry.is_regular_file() && is_text_name(entry.path())) {
        add_text(entry.path(), text_name(entry.path(), path), own, here ? &*here : nullptr);
      } else if (entry.is_regular_file() && name != "copyright") {
        pass_over(entry.path());
      }
    }
    if (passed_over_ > 0)
      list_.notes.push_back(fmt::format("passed over {} files that end neither in .txt nor in .md ({}{})", passed_over_, first_passed_over_,
                                        passed_over_ > 1 ? ", ..." : ""));
    if (unread_ > 0)
      list_.notes.push_back(fmt::format("{} copyright files are not in the machine-readable format; their documents have the licence "
                                        "'{}' ({}{})",
                                        unread_, kUnspecified, first_unread_, unread_ > 1 ? ", ..." : ""));
  }

  /// A record of the table, without its text.
  struct Given {
    std::string name, source, license, teacher;
    bool has_text = false, has_ids = false, has_chat = false;
    double weight = 1;
    int64_t fault_at = -1;
    std::string fault;  // not empty: broken
  };

  Given read_record(std::string_view line, const fs::path& file, int64_t offset, int64_t number) const {
    const Json json = parse_json(line, file, offset);
    if (!json.is_object()) throw FormatError(file, offset, "is not one JSON object a line, in UTF-8");
    const JsonObject record(json, file, "", JsonNull::absent, offset);
    Given given;
    given.has_text = record.has("text");
    given.has_ids = record.has("ids");
    given.has_chat = is_chat_record(json);
    if (!given.has_text && !given.has_chat && !given.has_ids && !record.has("name")) {
      std::vector<std::string> keys;
      for (const auto& [key, value] : json.items())
        if (keys.size() < kMostKeysNamed) keys.push_back(key);
      throw FormatError(file, offset, fmt::format("has neither 'text' nor a conversation, nor the 'name' of a file; its keys are: {}", fmt::join(keys, ", ")));
    }
    given.name = record.text("name", given.has_text || given.has_chat ? fmt::format("{}:{}", file.filename().string(), number) : std::optional<std::string>());
    given.source = record.text("source", kUnspecified);
    given.license = record.text("license", kUnspecified);
    given.teacher = record.text("teacher", "");
    for (std::string* text : {&given.source, &given.license})
      if (text->empty()) *text = kUnspecified;
    if (given.has_text) record.text("text");  // its type
    if (list_.folders[folder_].sampled) given.weight = record.number("weight", 1.0);
    if (!(given.weight > 0 && given.weight <= 1)) record.fail("weight", "is outside of 0 to 1");
    if (given.name.empty() || given.name.find('\0') != std::string::npos) record.fail("name", "is empty or holds a NUL");
    if (!given.has_text && !given.has_chat && !is_safe_relative_name(given.name))
      record.fail("name", fmt::format("is '{}', which names no file inside the folder, and the record has neither 'text' nor a conversation",
                                      given.name));
    return given;
  }

  Given read_given(std::string_view line, const fs::path& file, int64_t offset, int64_t number) const {
    try {
      return read_record(line, file, offset, number);
    } catch (const FormatError& e) {
      Given given;
      given.fault_at = e.offset();
      given.fault = e.what();
      const std::string prefix = file.string() + ": ", at = fmt::format("byte {}: ", e.offset());
      if (given.fault.starts_with(prefix)) given.fault.erase(0, prefix.size());
      if (given.fault.starts_with(at)) given.fault.erase(0, at.size());
      // The parser counts lines in the record, which is one.
      constexpr std::string_view kOfRecord = "parse error at line 1, ";
      if (const size_t where = given.fault.find(kOfRecord); where != std::string::npos) given.fault.erase(where, kOfRecord.size());
      if (given.fault.size() > kMostCauseBytes) given.fault = given.fault.substr(0, kMostCauseBytes) + "...";
      given.fault = to_valid_utf8(given.fault);
      if (given.fault.starts_with("not valid JSON")) given.fault += "; a table is one JSON object a line, in UTF-8";
      return given;
    }
  }

  void list_table() {
    const DocumentFolder& folder = list_.folders[folder_];
    const MappedFile& table = *folder.table;
    const std::string_view all(reinterpret_cast<const char*>(table.bytes().data()), table.bytes().size());
    if (all.starts_with("\xff\xfe") || all.starts_with("\xfe\xff"))
      throw FormatError(table.path(), 0, "is UTF-16; a table is one JSON object a line, in UTF-8: 'iconv -f UTF-16 -t UTF-8' makes it so");
    const uint32_t rule = list_.word(folder.sampled ? kSampledRule : "given");
    struct Place {
      int64_t offset, line;
    };
    std::vector<Place> places;  // of lines that are read together
    const auto read = [&] {
      throw_if_interrupted();
      std::vector<Given> read(places.size());
      parallel_for(int64_t(places.size()), 256, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const Place& place = places[size_t(i)];
          read[size_t(i)] = read_given(line_at(table, place.offset), table.path(), place.offset, place.line);
        }
      });
      for (size_t i = 0; i < read.size(); ++i) {
        Given& given = read[i];
        const Place& place = places[i];
        if (!given.fault.empty()) {
          const std::string name = fmt::format("{}:{}", table.path().filename().string(), place.line);
          add_broken({name, place.line, given.fault}, table.path(), given.fault_at);
          continue;
        }
        const bool has_ids = folder.takes_ids && given.has_ids;
        list_.all.push_back({std::move(given.name), given.has_text || given.has_chat || has_ids ? place.offset : -1, place.line, list_.word(given.source),
                             list_.word(given.license), rule, uint8_t(folder_), given.has_text, has_ids,
                             given.weight, given.has_chat, list_.word(given.teacher)});
      }
      places.clear();
    };
    int64_t number = 0;
    for (size_t at = all.starts_with("\xef\xbb\xbf") ? 3 : 0; at < all.size();) {
      const size_t end = std::min(all.find('\n', at), all.size());
      ++number;
      if (all.substr(at, end - at).find_first_not_of(" \t\r") != std::string_view::npos) places.push_back({int64_t(at), number});
      if (places.size() == kRecordsAtOnce) read();
      at = end + 1;
    }
    read();
  }

  CandidateList& list_;
  size_t folder_;
  int64_t most_broken_;
  int64_t passed_over_ = 0, unread_ = 0;
  std::string first_passed_over_, first_table_, first_unread_;
};

/// Of documents of one name, the first by place and line stays: a name is what audits find a document by.
void refuse_same_names(CandidateList& list, int64_t most_broken) {
  std::ranges::stable_sort(list.all, {}, [](const Candidate& c) { return std::tie(c.name, c.folder, c.line); });
  std::vector<Candidate> kept;
  kept.reserve(list.all.size());
  for (Candidate& c : list.all) {
    if (kept.empty() || kept.back().name != c.name) {
      kept.push_back(std::move(c));
      continue;
    }
    const Candidate& first = kept.back();
    const std::string other = first.line > 0 ? fmt::format("that of line {}", first.line) : fmt::format("that of {}", list.file(first).string());
    list.broken.push_back({c.name, c.line, fmt::format("two documents are called '{}': this one and {}", c.name, other)});
    if (int64_t(list.broken.size()) > most_broken)
      throw FormatError(list.file(c), c.record, fmt::format("{}{} (broken documents are skipped with allow-broken)", line_prefix(c.line),
                                                            list.broken.back().cause));
  }
  list.all = std::move(kept);
}

}  // namespace

fs::path CandidateList::file(const Candidate& c) const {
  const DocumentFolder& folder = folders[c.folder];
  if (c.has_text || c.has_chat) return folder.table->path();
  if (folder.table) return folder.table->path().parent_path() / c.name;
  if (!fs::is_directory(folder.path)) return folder.path;
  const fs::path exact = folder.path / c.name;
  return is_text_name(exact) && fs::is_regular_file(exact) ? exact : fs::path(exact.string() + ".txt");
}

uint32_t CandidateList::word(std::string_view text) {
  const auto [it, is_new] = places_.try_emplace(std::string(text), uint32_t(words.size()));
  if (is_new) words.emplace_back(text);
  return it->second;
}

std::string_view line_at(const MappedFile& table, int64_t offset) {
  const std::string_view all(reinterpret_cast<const char*>(table.bytes().data()), table.bytes().size());
  return all.substr(size_t(offset), std::min(all.find('\n', size_t(offset)), all.size()) - size_t(offset));
}

std::string line_prefix(int64_t line) { return line > 0 ? fmt::format("line {}: ", line) : ""; }

CandidateList list_documents(std::vector<DocumentFolder> folders, int64_t most_broken) {
  CandidateList list;
  list.folders = std::move(folders);
  for (size_t i = 0; i < list.folders.size(); ++i) {
    const size_t before = list.all.size(), broken = list.broken.size();
    Lister lister(list, i, most_broken);
    lister.list();
    if (list.all.size() == before && list.broken.size() == broken)
      throw UsageError(fmt::format("{} holds no documents: .txt or .md files, in folders or not; documents.jsonl; or give a single "
                                   "text, or a .jsonl file with one {{\"text\": ...}} a line{}",
                                   list.folders[i].path.string(), lister.found_instead()));
  }
  refuse_same_names(list, most_broken);
  std::ranges::sort(list.all, [&](const Candidate& a, const Candidate& b) {
    return std::tie(list.source(a), a.name) < std::tie(list.source(b), b.name);
  });
  return list;
}

}  // namespace overproof
