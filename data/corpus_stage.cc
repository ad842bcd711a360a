#include "data/corpus_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/lfs_pointer.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/utf8.h"
#include "data/commitment.h"
#include "data/corpus.h"
#include "data/corpus_sources.h"
#include "data/corpus_tally.h"
#include "data/private_corpus.h"
#include "data/tokenizer.h"
#include "formats/safetensors.h"

namespace overproof {

namespace {


/// Whether the ids of an artifact of `sample` are ids of `tokenizer`.
bool has_ids_of(const fs::path& samples, const TokenizerIdentity& tokenizer) {
  const fs::path file = samples / "sampling.json";
  const Json json = parse_json(read_file(file, 1 << 20), file);
  const JsonObject facts(json, file, "");
  if (!facts.has("tokenizer")) return false;  // made by an earlier version
  Metadata made_by;
  for (const auto& [name, value] : facts.object("tokenizer").json().items()) made_by[name] = facts.object("tokenizer").text(name);
  return TokenizerIdentity::from_metadata(made_by, file).matches(tokenizer);
}

/// A file of raw token bytes that grows while the number of tokens is still unknown.
class Spool {
 public:
  explicit Spool(fs::path path) : path_(std::move(path)), file_(std::fopen(path_.c_str(), "wb+")) {
    if (!file_) throw IoError(path_, "cannot create", errno);
  }
  ~Spool() {
    std::fclose(file_);
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;
  void append(const std::vector<int32_t>& ids, DType dtype) {
    if (dtype == DType::u16) {
      narrow_.assign(ids.begin(), ids.end());
      write(narrow_.data(), narrow_.size() * 2);
    } else {
      write(ids.data(), ids.size() * 4);  // ids are not negative, so the bits are those of U32
    }
    tokens += int64_t(ids.size());
  }
  void append(const std::vector<uint8_t>& mask) {
    write(mask.data(), mask.size());
    tokens += int64_t(mask.size());
    ones += std::ranges::count(mask, uint8_t{1});
  }
  void copy_to(SafetensorsWriter& writer) {
    if (std::fflush(file_) != 0) throw IoError(path_, "cannot write", errno);
    std::rewind(file_);
    std::vector<char> buffer(1 << 20);
    while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), file_)) writer.append(buffer.data(), n);
    if (std::ferror(file_)) throw IoError(path_, "cannot read", errno);
  }
  int64_t tokens = 0, ones = 0;

 private:
  void write(const void* data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_) != bytes) throw IoError(path_, "cannot write", errno);
  }
  fs::path path_;
  std::FILE* file_;
  std::vector<uint16_t> narrow_;
};

/// Whether a document is among `fraction` of all. Keyed by a fixed label alone, so the same document is chosen in every corpus that
/// asks for the same fraction, and what is chosen for a smaller fraction is also chosen for a larger one.
bool is_chosen(std::string_view label, const Digest& digest, double fraction) {
  Sha256 hash;
  hash.update(label);
  hash.update(digest.bytes.data(), digest.bytes.size());
  const Digest key = hash.finish();
  uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) bits = bits << 8 | key.bytes[size_t(i)];
  return double(bits >> 11) * 0x1p-53 < fraction;
}

/// At most the first `bytes` of `text`, which is UTF-8, to the end of a character.
void cut_text(std::string& text, size_t bytes) {
  if (text.size() <= bytes) return;
  while (bytes > 0 && (uint8_t(text[bytes]) & 0xC0) == 0x80) --bytes;
  text.resize(bytes);
}

/// The message of a fault without the file and the place, which are named with it again.
std::string cause_within(const FormatError& e, const fs::path& file) {
  std::string cause = e.what();
  const std::string prefix = file.string() + ": ", at = fmt::format("byte {}: ", e.offset());
  if (cause.starts_with(prefix)) cause.erase(0, prefix.size());
  if (cause.starts_with(at)) cause.erase(0, at.size());
  return cause;
}

Json json_of(const std::vector<ByteRange>& ranges) {
  Json list = Json::array();
  for (const ByteRange& range : ranges) list.push_back({range.begin, range.end});
  return list;
}

/// What one document became, before it is known whether an earlier one is the same.
struct Prepared {
  std::string text;
  Digest digest;
  std::vector<int32_t> ids;
  bool marked = false;  // a conversation, with:
  std::vector<uint8_t> trained;  // of each id
  MarkedDocument ranges;  // without the text
  bool too_short = false, too_long = false, not_taken = false;
  int64_t fault_at = -1;
  std::string fault;  // not empty: broken

  bool check_length(int64_t bytes, const CorpusConfig& config) {
    too_short = bytes < std::max<int64_t>(config.min_bytes, 1);
    too_long = bytes > config.max_bytes;
    return too_short || too_long;
  }
};

/// The text of a file, if it is neither too short nor too long; `fault`: why it cannot be read.
void read_text(const fs::path& file, const CorpusConfig& config, Prepared& out) {
  std::error_code error;
  const auto size = fs::file_size(file, error);
  if (error) {
    out.fault = fmt::format("cannot read: {}", error.message());
    return;
  }
  if (out.check_length(int64_t(size), config)) return;
  try {
    out.text = read_file(file);
  } catch (const IoError& e) {
    out.fault = e.what();
  }
}

/// A conversation: text, ids and mask.
Prepared prepare_chat(const CandidateList& list, const Candidate& candidate, const CorpusConfig& config, const ChatDocuments& chats,
                      int32_t separator) {
  Prepared out;
  out.marked = true;
  const fs::path& file = list.table(candidate).path();
  try {
    out.ranges = chats.read(line_at(list.table(candidate), candidate.record), file, candidate.record);
    out.text = std::move(out.ranges.text);
    if (out.check_length(int64_t(out.text.size()), config)) return out;
    out.digest = sha256(out.text);
    out.not_taken = !in_source_share(out.digest, config.source_share);
    if (out.not_taken) return out;
    MaskedIds made = chats.encode(out.text, out.ranges.quoted, out.ranges.trained, separator);
    out.ids = std::move(made.ids);
    out.trained = std::move(made.trained);
    const auto count = std::ranges::count(out.trained, uint8_t{1});
    if (count == 0) out.fault = "none of its tokens is trained";
    if (count == ptrdiff_t(out.trained.size())) out.fault = "every one of its tokens is trained: the template or the record has no prompt";
  } catch (const FormatError& e) {
    out.fault = cause_within(e, file);
    out.fault_at = candidate.record;
  } catch (const MismatchError& e) {
    out.fault = e.what();
    out.fault_at = candidate.record;
  }
  return out;
}

Prepared prepare(const CandidateList& list, const Candidate& candidate, const CorpusConfig& config, const Tokenizer& tokenizer,
                 const ChatDocuments& chats, int32_t separator) {
  if (candidate.has_chat) return prepare_chat(list, candidate, config, chats, separator);
  Prepared out;
  Json record;
  if (candidate.record >= 0)
    record = parse_json(line_at(list.table(candidate), candidate.record), list.table(candidate).path(), candidate.record);
  if (candidate.has_text) {
    out.text = std::move(record["text"].get_ref<std::string&>());
    out.check_length(int64_t(out.text.size()), config);
  } else {
    read_text(list.file(candidate), config, out);
  }
  if (out.too_short || out.too_long || !out.fault.empty()) return out;
  if (const std::string_view kind = candidate.has_text ? "" : kind_of_container(out.text); !kind.empty()) {
    out.fault = fmt::format("it is {}, not text; extract its texts into .txt files, or into a .jsonl file with one {{\"text\": ...}} a line", kind);
    return out;
  }
  out.fault_at = invalid_utf8_at(out.text);
  if (out.fault_at >= 0) {
    const bool utf16 = out.text.starts_with("\xff\xfe") || out.text.starts_with("\xfe\xff");
    out.fault = utf16 ? "it is UTF-16, not UTF-8; convert it with 'iconv -f UTF-16 -t UTF-8'"
                      : "it is not UTF-8; if it is Latin-1, convert it with 'iconv -f LATIN1 -t UTF-8'";
    return out;
  }
  if (is_lfs_pointer(out.text)) {
    out.fault = "it is a Git LFS pointer, not the text; fetch it with 'git lfs pull'";
    return out;
  }
  const bool sampled = list.folders[candidate.folder].sampled;
  if (config.cut_bytes > 0 && !sampled) cut_text(out.text, size_t(config.cut_bytes));
  out.digest = sha256(out.text);
  out.not_taken = !sampled && !in_source_share(out.digest, config.source_share);
  if (out.not_taken) return out;
  if (candidate.has_ids) {
    // What was drawn, and not what the tokenizer makes of the text: the teacher met its chat markers as tokens, and its choice
    // among the spellings of a text is part of what it does.
    const JsonObject members(record, list.table(candidate).path(), "", JsonNull::value, candidate.record);
    for (const Json& id : members.list("ids")) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t(tokenizer.vocab_size())) {
        out.fault = "its ids are not ids of the tokenizer";
        return out;
      }
      out.ids.push_back(int32_t(id.get<uint64_t>()));
    }
    if (tokenizer.decode(out.ids) != out.text) out.fault = "its ids do not spell its text";
  } else {
    tokenizer.encode(out.text, out.ids);
  }
  out.ids.push_back(separator);
  return out;
}

}  // namespace

int32_t separator_of(const Tokenizer& tokenizer, const std::string& wanted) {
  const std::string text = wanted.empty() ? "<|endoftext|>" : wanted;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.token_text(id) == text) return id;
  }
  if (!wanted.empty()) throw UsageError(fmt::format("the separator '{}' is not a token of this tokenizer", wanted));
  if (tokenizer.eos_id() < 0) throw UsageError("the tokenizer has no end token; choose one with separator");
  return tokenizer.eos_id();
}

Split split_of(const Digest& document, double held_out) {
  return is_chosen("overproof held-out v1", document, held_out) ? Split::held_out : Split::train;
}

bool in_source_share(const Digest& document, double share) {
  return share >= 1 || is_chosen("overproof source share v1", document, share);
}

StageReport run_corpus(const CorpusConfig& config, const Inputs& inputs, Outputs& outputs) {
  const auto tokenizer = open_tokenizer(inputs.path("tokenizer"));
  const int32_t separator = separator_of(*tokenizer, config.separator);
  std::vector<DocumentFolder> folders;
  if (inputs.has("source")) folders.push_back({inputs.path("source")});
  if (inputs.has("samples"))
    folders.push_back({.path = inputs.path("samples"),
                       .takes_ids = has_ids_of(inputs.path("samples"), tokenizer->identity()),
                       .sampled = true});
  if (folders.empty())
    throw UsageError("corpus: give --source (documents from outside), --samples (an artifact made by sample), or both");
  const CandidateList list = list_documents(std::move(folders), config.allow_broken);
  std::set<int32_t> ends = turn_end_ids(inputs.path("tokenizer"), *tokenizer);
  const ChatDocuments chats(*tokenizer,
                            inputs.has("chat-template") ? read_chat_template(inputs.path("chat-template"), tokenizer.get())
                                                        : open_chat_template(inputs.path("tokenizer"), *tokenizer),
                            std::move(ends), separator, config.train_turns);
  const bool has_chats = std::ranges::any_of(list.all, &Candidate::has_chat);
  const std::vector<Candidate>& candidates = list.all;
  const DType dtype = tokenizer->vocab_size() <= 65536 ? DType::u16 : DType::u32;

  fs::create_directories(outputs.scratch());
  Spool train(outputs.scratch() / "train.tokens"), held_out(outputs.scratch() / "held_out.tokens");
  Spool train_mask(outputs.scratch() / "train.mask"), held_out_mask(outputs.scratch() / "held_out.mask");
  OutputFile table = outputs.folder().open("documents.jsonl");
  std::optional<CorpusSalt> secret;
  if (inputs.has("salt")) secret = CorpusSalt::read(inputs.path("salt"));
  CommitmentWriter commitment(secret);
  std::optional<OutputFile> texts;
  std::string texts_source;
  std::set<Digest> seen;
  CorpusTally tally;
  int64_t duplicates = 0, weighted = 0, too_short = 0, too_long = 0, not_taken = 0, done = 0;
  Json broken = Json::array();
  const auto add_broken = [&](const std::string& name, int64_t line, const std::string& cause) {
    Json record = {{"name", name}, {"cause", cause}};
    if (line > 0) record["line"] = line;
    broken.push_back(std::move(record));
  };
  for (const BrokenDocument& b : list.broken) add_broken(b.name, b.line, b.cause);

  const auto keep = [&](const Candidate& candidate, Prepared& prepared) {
    Document d{.digest = prepared.digest,
               .name = candidate.name,
               .source = list.source(candidate),
               .license = list.words[candidate.license],
               .license_rule = list.words[candidate.rule],
               .bytes = int64_t(prepared.text.size()),
               .split = split_of(prepared.digest, config.held_out),
               .tokens = int64_t(prepared.ids.size()),
               .weight = candidate.weight,
               .teacher = list.words[candidate.teacher]};
    Spool& spool = d.split == Split::train ? train : held_out;
    d.first_token = spool.tokens;
    spool.append(prepared.ids, dtype);
    if (has_chats) {
      if (!prepared.marked) prepared.trained.assign(prepared.ids.size(), 1);
      (d.split == Split::train ? train_mask : held_out_mask).append(prepared.trained);
    }
    commitment.add(d.digest, d.split, d.tokens, table.bytes_written());
    const char* split = d.split == Split::train ? "train" : "held_out";
    Json record = {{"digest", d.digest.hex()},
                   {"name", d.name},
                   {"source", d.source},
                   {"license", d.license},
                   {"license_rule", d.license_rule},
                   {"bytes", d.bytes},
                   {"split", split},
                   {"first_token", d.first_token},
                   {"tokens", d.tokens}};
    if (prepared.marked) record["trained"] = std::ranges::count(prepared.trained, uint8_t{1});
    if (d.weight != 1) record["weight"] = d.weight, ++weighted;
    if (!d.teacher.empty()) record["teacher"] = d.teacher;
    if (secret && table.bytes_written() == 0) record[kSaltMember] = secret->file_salt("documents.jsonl").hex();
    table.write(record.dump() + "\n");
    const bool first_of_source = !texts || texts_source != d.source;
    if (first_of_source) {
      if (texts) outputs.folder().finish(std::move(*texts));
      texts.emplace(outputs.folder().open(texts_file_name(d.source)));
      texts_source = d.source;
    }
    Json text = {{"name", d.name}, {"digest", d.digest.hex()}, {"text", std::move(prepared.text)}};
    if (prepared.marked) text["quoted"] = json_of(prepared.ranges.quoted), text["trained"] = json_of(prepared.ranges.trained);
    if (secret && first_of_source) text[kSaltMember] = secret->file_salt(texts_file_name(d.source)).hex();
    texts->write(text.dump() + "\n");
    tally.add(d);
  };

  Progress progress("corpus", int64_t(candidates.size()), "documents");
  constexpr size_t kBatch = 128;
  for (size_t begin = 0; begin < candidates.size(); begin += kBatch) {
    throw_if_interrupted();
    const size_t count = std::min(kBatch, candidates.size() - begin);
    std::vector<Prepared> batch(count);
    parallel_for(int64_t(count), 4, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        batch[size_t(i)] = prepare(list, candidates[begin + size_t(i)], config, *tokenizer, chats, separator);
      }
    });
    for (size_t i = 0; i < count; ++i) {
      const Candidate& candidate = candidates[begin + i];
      if (!batch[i].fault.empty()) {
        add_broken(candidate.name, candidate.line, batch[i].fault);
        if (int64_t(broken.size()) > config.allow_broken) {
          throw FormatError(list.file(candidate), batch[i].fault_at,
                            fmt::format("{}{} (broken documents are skipped with allow-broken)", line_prefix(candidate.line), batch[i].fault));
        }
      } else if (batch[i].too_short || batch[i].too_long) {
        ++(batch[i].too_short ? too_short : too_long);
      } else if (batch[i].not_taken) {
        ++not_taken;
      } else if (!seen.insert(batch[i].digest).second) {
        ++duplicates;
      } else {
        keep(candidate, batch[i]);
      }
    }
    progress.update(done += int64_t(count), fmt::format("{} tokens", train.tokens + held_out.tokens));
  }
  if (seen.empty())
    throw FormatError(list.folders[0].path, -1,
                      fmt::format("no document is left: {} are shorter than min-bytes {}, {} are longer than max-bytes {}, {} are broken, "
                                  "{} are not in the source-share of {}",
                                  too_short, config.min_bytes, too_long, config.max_bytes, broken.size(), not_taken,
                                  config.source_share));
  outputs.folder().finish(std::move(*texts));
  const int64_t table_bytes = table.bytes_written();
  outputs.folder().finish(std::move(table));
  const Commitment committed = commitment.finish(outputs.folder(), table_bytes);

  Metadata metadata = {{"vocab_size", std::to_string(tokenizer->vocab_size())},
                       {"separator", std::to_string(separator)},
                       {"window_length", std::to_string(config.window_length)}};
  tokenizer->identity().put_into(metadata);
  if (secret) metadata[kBatchSalt] = secret->batch_salt().hex();
  const bool by_document = config.document_attention == DocumentAttention::on || (config.document_attention == DocumentAttention::automatic && has_chats);
  if (by_document) metadata["document_attention"] = "on";
  std::vector<TensorInfo> tensors = {{"train", dtype, {train.tokens}}, {"held_out", dtype, {held_out.tokens}}};
  if (has_chats) {
    tensors.push_back({"train_mask", DType::u8, {train.tokens}});
    tensors.push_back({"held_out_mask", DType::u8, {held_out.tokens}});
  }
  SafetensorsWriter stream(outputs.folder(), "tokens.safetensors", tensors, metadata);
  train.copy_to(stream);
  held_out.copy_to(stream);
  if (has_chats) train_mask.copy_to(stream), held_out_mask.copy_to(stream);
  stream.close();

  const Json licenses = tally.licenses();
  Json licenses_file = licenses;
  if (secret) licenses_file[kSaltMember] = secret->file_salt("licenses.json").hex();
  outputs.folder().write_file("licenses.json", licenses_file.dump(1, ' ') + "\n");

  StageReport report;
  report.metrics() = tally.metrics(secret.has_value());
  report.metrics()["duplicates"] = duplicates;
  report.metrics()["too_short"] = too_short;
  report.metrics()["too_long"] = too_long;
  report.metrics()["not_taken"] = not_taken;
  report.metrics()["broken"] = broken;
  if (has_chats) {
    report.metrics()["trained_tokens"] = {{"train", train_mask.ones}, {"held_out", held_out_mask.ones}};
    report.summary.push_back(fmt::format("conversations: {} of the training and {} of the held-out tokens are trained, the others masked; attention {}",
                                         train_mask.ones, held_out_mask.ones, by_document ? "stays within documents" : "crosses documents"));
  }
  if (weighted > 0) report.summary.push_back(fmt::format("{} documents count in training by weights below 1", weighted));
  report.metrics()["documents_root"] = committed.documents.root.hex();
  report.metrics()["sorted_root"] = committed.sorted.root.hex();
  const auto total = int64_t(seen.size());
  report.summary.push_back(fmt::format("{} documents, {} training and {} held-out tokens, {} licences, {} sources", total,
                                       train.tokens, held_out.tokens, licenses["licenses"].size(), licenses["sources"].size()));
  report.summary.push_back(fmt::format("left out: {} duplicates, {} too short, {} too long, {} broken{}", duplicates, too_short, too_long,
                                       broken.size(), not_taken > 0 ? fmt::format(", {} not in the share taken", not_taken) : ""));
  report.summary.push_back(fmt::format("committed to {}{} documents: tree {}, sorted {}", secret ? "salted " : "", total,
                                       committed.documents.root.hex().substr(0, 16), committed.sorted.root.hex().substr(0, 16)));
  const auto windows = [&](const Spool& spool) { return std::max<int64_t>(0, spool.tokens - 1) / config.window_length; };
  for (const auto& [spool, kind, what] : {std::tuple{&train, "training", "no stage can teach or train with it"},
                                         {&held_out, "held-out", "no stage can measure with it; raise held-out, or add documents"}})
    if (windows(*spool) == 0)
      report.summary.push_back(fmt::format("note: its {} {} tokens are less than one window of {}: {}", spool->tokens, kind,
                                           config.window_length, what));
  for (const std::string& note : list.notes) report.summary.push_back("note: " + note);
  for (const Json& record : broken) {
    report.summary.push_back(fmt::format("broken: {}: {}{}", record["name"].get<std::string>(),
                                         line_prefix(record.value("line", int64_t{0})), record["cause"].get<std::string>()));
  }
  return report;
}

}  // namespace overproof
