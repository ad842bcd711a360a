#pragma once
// The documents that a corpus may be made of: the content of a folder, a table or a file, before any text is tokenized.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace overproof {

/// A document that may come into the corpus. There may be tens of millions: names are kept once each, all else as numbers.
struct Candidate {
  std::string name;
  int64_t record = -1;  ///< where its record begins in its folder's table, if its text or its ids are in it
  int64_t line = 0;     ///< of its record in the table, from 1; 0: it has none
  uint32_t source = 0, license = 0, rule = 0;  ///< of CandidateList::words
  uint8_t folder = 0;                          ///< of CandidateList::folders
  bool has_text = false, has_ids = false;      ///< in the record; else the text is a file, and its ids are made from it
  double weight = 1;      ///< of the document in training; of samples only
  bool has_chat = false;  ///< the record is a conversation (data/chat_records.h)
  uint32_t teacher = 0;   ///< of CandidateList::words
};

/// A place that documents come from.
struct DocumentFolder {
  fs::path path;                   ///< of a single file: the file
  std::optional<MappedFile> table;  ///< documents.jsonl or a single file of records, if it has one
  bool takes_ids = false;  ///< of an artifact of `sample`, whose tokenizer is the corpus's: its records hold the ids that were drawn
  bool sampled = false;
};

/// A document that cannot come in.
struct BrokenDocument {
  std::string name;   ///< valid UTF-8, whatever the file is called
  int64_t line = 0;   ///< of its record; 0: it has none
  std::string cause;
};

struct CandidateList {
  std::vector<Candidate> all;  ///< by source and name; no name occurs twice
  std::vector<DocumentFolder> folders;
  std::vector<std::string> words = {""};  ///< sources, licences, rules and teachers
  std::vector<BrokenDocument> broken;  ///< in the order of the places that they were found in
  std::vector<std::string> notes;      ///< what a person should know: files that are no texts, copyright files that cannot be read

  const std::string& source(const Candidate& c) const { return words[c.source]; }
  const MappedFile& table(const Candidate& c) const { return *folders[c.folder].table; }
  fs::path file(const Candidate& c) const;  ///< that its text is in
  uint32_t word(std::string_view text);

 private:
  std::map<std::string, uint32_t, std::less<>> places_ = {{"", 0}};
};

/// The record that begins `offset` bytes into the table, of any length, without a line break.
std::string_view line_at(const MappedFile& table, int64_t offset);

/// Lists the documents of all places (layouts: data/corpus_stage.h). A record or file that is at fault goes to `broken`. Throws
/// FormatError when more than `most_broken` are, naming the first beyond it with its line, UsageError when a place holds no document.
CandidateList list_documents(std::vector<DocumentFolder> folders, int64_t most_broken);

/// "line 12: " for a record, else "".
std::string line_prefix(int64_t line);

}  // namespace overproof
