#include "audit/corpus_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <tuple>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "data/chat_document.h"
#include "data/commitment.h"
#include "data/corpus_stage.h"
#include "data/corpus_tally.h"
#include "data/private_corpus.h"
#include "data/span_index.h"
#include "data/tokenizer.h"
#include "formats/metadata.h"

namespace overproof {
namespace {

constexpr const char* kDocuments = "documents.jsonl";
constexpr const char* kTokens = "tokens.safetensors";
constexpr const char* kLicenses = "licenses.json";
constexpr const char* kMakeAgain = "make the corpus again from its texts: an honest corpus stage does not make this";
constexpr int64_t kMostTableBytes = int64_t{1} << 30;
constexpr size_t kBatch = 128;  // documents that are encoded side by side

/// The configuration of the statement; options that it does not have keep their defaults.
struct SignedOptions {
  CorpusConfig corpus;
  explicit SignedOptions(const ArtifactNode& node) {
    const JsonObject given(node.lineage()->config, node.path / "claims.jsonl", "externalParameters");
    corpus.min_bytes = given.integer("min-bytes", 0, INT64_MAX, corpus.min_bytes);
    corpus.max_bytes = given.integer("max-bytes", 0, INT64_MAX, corpus.max_bytes);
    corpus.cut_bytes = given.integer("cut-bytes", 0, INT64_MAX, corpus.cut_bytes);
    corpus.source_share = given.number("source-share", corpus.source_share);
    corpus.held_out = given.number("held-out", corpus.held_out);
    corpus.window_length = given.integer("window-length", 1, INT64_MAX, corpus.window_length);
    corpus.separator = given.text("separator", corpus.separator);
    const std::string attention = given.text("document-attention", "auto");
    corpus.document_attention = attention == "on"    ? DocumentAttention::on
                                : attention == "off" ? DocumentAttention::off
                                                     : DocumentAttention::automatic;
  }
};

class CorpusChecker {
 public:
  CorpusChecker(const ArtifactNode& node, const ArtifactNode* tokenizer, ContentCheck& check)
      : node_(node), check_(check), corpus_(node.path), stream_(node.path / kTokens), options_(SignedOptions(node).corpus) {
    if (tokenizer) open(*tokenizer);
    lists_commitment_ = CorpusCommitment::is_in(node.path);
  }

  void options() {
    if (corpus_.window_length() != options_.window_length)
      fault(kTokens, fmt::format("has windows of {} tokens, but the statement names {}", corpus_.window_length(), options_.window_length));
    const bool by_document = options_.document_attention == DocumentAttention::on ||
                             (options_.document_attention == DocumentAttention::automatic && corpus_.has_mask());
    if (corpus_.document_attention() != by_document)
      fault(kTokens, fmt::format("records that attention {} documents, which the option document-attention does not give",
                                 by_document ? "crosses" : "stays within"));
    if (!tokenizer_) return;
    if (corpus_.vocab_size() != tokenizer_->vocab_size() || !corpus_.tokenizer().matches(tokenizer_->identity()))
      fault(kTokens, fmt::format("was made with another tokenizer than that of '{}', which the statement names", tokenizer_name_));
    try {
      const int32_t wanted = separator_of(*tokenizer_, options_.separator);
      separator_ = int32_t(metadata_integer(stream_, "separator", 0, INT32_MAX));
      if (separator_ != wanted)
        fault(kTokens, fmt::format("has the separator {}, but the statement's options give {}", separator_, wanted));
    } catch (const UsageError& e) {
      fault("", fmt::format("cannot be made with the options of its statement: {}", e.what()));
    }
  }

  void documents() {
    Progress progress("corpus", int64_t(corpus_.documents().size()), "documents");
    std::vector<Document> batch;
    std::vector<StoredText> texts;
    int64_t done = 0;
    const auto flush = [&] {
      throw_if_interrupted();
      std::vector<std::string> found(batch.size());
      if (tokenizer_)
        parallel_for(int64_t(batch.size()), 4, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) found[size_t(i)] = token_fault(batch[size_t(i)], texts[size_t(i)]);
        });
      for (size_t i = 0; i < batch.size(); ++i)
        if (!found[i].empty()) first_fault("tokens", kTokens, found[i]);
      progress.update(done += int64_t(batch.size()));
      batch.clear();
      texts.clear();
    };
    for_each_stored_text(node_.path, [&](const Document& document, const StoredText& text) {
      record(document, text);
      batch.push_back(document);
      texts.push_back(text);
      if (batch.size() == kBatch) flush();
      return true;
    });
    flush();
    for (const FileRecord& file : node_.lineage()->files)
      if (file.name.starts_with("texts/") && !text_files_.contains(file.name))
        fault(file.name, fmt::format("belongs to no source of {}", kDocuments));
  }

  void sums() {
    const fs::path file = node_.path / kLicenses;
    const Json stored = parse_json(read_file(file, kMostTableBytes), file), made = tally_.licenses();
    const JsonObject licenses(stored, file);
    const Json& metrics = node_.lineage()->metrics;
    for (const auto& [name, sums] : made.items()) {
      // Rules are not in the table of version 0.1.
      if (!licenses.has(name) ? name != "license_rules" : licenses.at(name) != sums)
        fault(kLicenses, fmt::format("'{}' is not the sum of {}{}", name, kDocuments, difference(licenses.find(name), sums)));
    }
    // A private corpus of an earlier build of this version signs all sums.
    const bool is_private = stream_.metadata().contains(kBatchSalt);
    const Json metric_sums = tally_.metrics(is_private);
    for (const auto& [name, sums] : metric_sums.items()) compare_metric(name, sums);
    if (corpus_.has_mask()) {
      const auto ones = [&](const char* name) { return std::ranges::count(stream_.values<uint8_t>(name), uint8_t{1}); };
      compare_metric("trained_tokens", {{"train", ones("train_mask")}, {"held_out", ones("held_out_mask")}});
    }
    if (lists_commitment_) {
      const Commitment roots = CorpusCommitment::roots_of(node_.path);
      for (const auto& [name, root] : {std::pair{"documents_root", roots.documents.root}, {"sorted_root", roots.sorted.root}})
        if (metrics.contains(name) && metrics[name] != root.hex())
          fault("", fmt::format("signs the metric '{}', which is not the root in commitment.json", name));
    }
    for (const char* count : {"duplicates", "too_short", "too_long", "not_taken"})
      if (metrics.contains(count) && !metrics[count].is_number_unsigned())
        fault("", fmt::format("signs the metric '{}', which is no count", count));
  }

 private:
  void open(const ArtifactNode& tokenizer) {
    tokenizer_name_ = tokenizer.name;
    try {
      tokenizer_ = open_tokenizer(tokenizer.path);
      encoder_.emplace(*tokenizer_);
    } catch (const Error& e) {
      throw_if_interrupted();
      fault(kTokens, fmt::format("cannot be compared with its texts: the tokenizer of '{}' cannot be read: {}", tokenizer.name,
                                 text_within(e, tokenizer.path)));
    }
  }

  void fault(std::string file, std::string what) { check_.faults.push_back({std::move(file), std::move(what), kMakeAgain}); }
  /// Of documents, the first fault of each kind: one wrong document can shift all that follow.
  void first_fault(const char* kind, std::string file, std::string what) {
    if (kinds_.insert(kind).second) fault(std::move(file), std::move(what));
  }

  void record(const Document& d, const StoredText& stored) {
    const std::string& text = stored.text;
    tally_.add(d);
    if (!(std::tie(last_source_, last_name_) < std::tie(d.source, d.name)) && has_last_)
      first_fault("order", kDocuments, fmt::format("has '{}' of '{}' out of the order of sources and names", d.name, d.source));
    has_last_ = true, last_source_ = d.source, last_name_ = d.name;
    text_files_.insert(texts_file_name(d.source));
    if (d.bytes != int64_t(text.size()))
      first_fault("bytes", kDocuments, fmt::format("gives '{}' {} bytes; its text has {}", d.name, d.bytes, text.size()));
    if (!has_allowed_length(d, stored.marked) || (!is_sampled(d) && !in_source_share(d.digest, options_.source_share)))
      first_fault("taken", kDocuments, fmt::format("lists '{}' of {} bytes, which the options of the statement leave out", d.name, d.bytes));
    if (d.weight != 1 && !is_sampled(d))
      first_fault("weight", kDocuments, fmt::format("gives '{}' a weight, which only samples have", d.name));
    if (d.split != split_of(d.digest, options_.held_out))
      first_fault("split", kDocuments,
                  fmt::format("puts '{}' into another split than its digest and the option held-out = {:g} give", d.name,
                              options_.held_out));
  }

  /// From an artifact of `sample`, which the statement must name.
  bool is_sampled(const Document& d) const {
    return d.license_rule == kSampledRule && node_.lineage()->inputs.contains("samples");
  }

  /// A text is cut after its length was compared with the other two options, at the end of a character.
  bool has_allowed_length(const Document& d, bool marked) const {
    int64_t least = std::max<int64_t>(options_.min_bytes, 1), most = options_.max_bytes;
    if (options_.cut_bytes > 0 && !is_sampled(d) && !marked) {
      least = std::min(least, std::max<int64_t>(options_.cut_bytes - 3, 0));
      most = std::min(most, options_.cut_bytes);
    }
    return d.bytes >= least && d.bytes <= most;
  }

  std::vector<int32_t> stored_ids(const Document& d) const {
    const char* name = d.split == Split::train ? "train" : "held_out";
    std::vector<int32_t> ids(size_t(d.tokens));
    const auto copy = [&](auto values) {
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(std::min<uint32_t>(values[size_t(d.first_token) + i], INT32_MAX));
    };
    if (stream_.info(name).dtype == DType::u16) copy(stream_.values<uint16_t>(name));
    else copy(stream_.values<uint32_t>(name));
    return ids;
  }

  /// Why the mask of a document is not that of its text; "" if it is.
  std::string mask_fault(const Document& d, const std::vector<uint8_t>& made) const {
    const auto ones = std::ranges::count(made, uint8_t{1});
    if (d.trained != (ones == ptrdiff_t(made.size()) ? -1 : ones))
      return fmt::format("belongs to a table that gives '{}' {} trained tokens; its text has {}", d.name, d.trained, ones);
    if (!corpus_.has_mask()) return d.trained < 0 ? "" : fmt::format("has no mask, and '{}' is a conversation", d.name);
    const auto all = stream_.values<uint8_t>(d.split == Split::train ? "train_mask" : "held_out_mask");
    if (std::ranges::equal(all.subspan(size_t(d.first_token), size_t(d.tokens)), made)) return "";
    return fmt::format("has another mask for '{}' than its text and its trained stretches give", d.name);
  }

  /// Why the tokens of a document are not those of its text; "" if they are.
  std::string token_fault(const Document& d, const StoredText& stored_text) const {
    const std::string& text = stored_text.text;
    std::vector<int32_t> stored = stored_ids(d), made;
    if (stored_text.marked) {
      MaskedIds masked = encode_document(*encoder_, text, stored_text.quoted, stored_text.trained, separator_);
      made = std::move(masked.ids);
      if (stored == made) return mask_fault(d, masked.trained);
    } else {
      tokenizer_->encode(text, made);
      made.push_back(separator_);
      if (stored == made) return mask_fault(d, std::vector<uint8_t>(made.size(), 1));
    }
    // What `sample` drew: the teacher's own spelling of the text, chat markers included.
    if (is_sampled(d) && stored.back() == separator_) {
      stored.pop_back();
      const bool known = std::ranges::all_of(stored, [&](int32_t id) { return id < tokenizer_->vocab_size(); });
      if (known && tokenizer_->decode(stored) == text) return mask_fault(d, std::vector<uint8_t>(stored.size() + 1, 1));
      stored.push_back(separator_);
    }
    const auto [one, other] = std::ranges::mismatch(stored, made);
    return fmt::format("holds other tokens for '{}' than the tokenizer of '{}' makes of its text: they differ from token {} on",
                       d.name, tokenizer_name_, one - stored.begin());
  }

  void compare_metric(const std::string& name, const Json& made) {
    const Lineage& lineage = *node_.lineage();
    const bool is_signed = lineage.metrics.contains(name);
    if (is_signed ? lineage.metrics[name] == made : lineage.format < 2) return;
    fault("", is_signed ? fmt::format("signs the metric '{}', which is not the sum of {}{}", name, kDocuments,
                                      difference(&lineage.metrics[name], made))
                        : fmt::format("signs no metric '{}'", name));
  }

  /// ": 'MIT' is {...}, and the table gives {...}", for the first member that differs.
  static std::string difference(const Json* stored, const Json& made) {
    if (!stored || !stored->is_object()) return "";
    const auto text = [](const Json& object, const std::string& name) {
      return object.contains(name) ? dump_text(object[name]).substr(0, 120) : "missing";
    };
    std::set<std::string> names;
    for (const Json* object : {stored, &made})
      for (const auto& [name, value] : object->items()) names.insert(name);
    for (const std::string& name : names)
      if (text(*stored, name) != text(made, name))
        return fmt::format(": '{}' is {}, and the table gives {}", name.substr(0, 100), text(*stored, name), text(made, name));
    return "";
  }

  const ArtifactNode& node_;
  ContentCheck& check_;
  const Corpus corpus_;
  const SafetensorsFile stream_;
  const CorpusConfig options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<MarkedEncoder> encoder_;  // of it
  std::string tokenizer_name_;
  int32_t separator_ = -1;
  CorpusTally tally_;
  bool lists_commitment_ = false, has_last_ = false;
  std::string last_source_, last_name_;
  std::set<std::string> text_files_, kinds_;
};

}  // namespace

void require_license_sums(const ArtifactNode& node) {
  const MappedFile table(node.path / kDocuments);
  CorpusTally tally;
  for_each_line(table, [&](std::string_view line, int64_t offset) { tally.add(parse_document(line, table.path(), offset)); });
  const fs::path file = node.path / kLicenses;
  const Json stored = parse_json(read_file(file, kMostTableBytes), file), made = tally.licenses();
  for (const auto& [name, sums] : made.items())
    if (!stored.is_object() || (!stored.contains(name) ? name != "license_rules" : stored[name] != sums))
      throw ProvenanceError(fmt::format("{}: '{}' is not the sum of {}, so it does not show the licences of its documents; see 'overproof audit verify'",
                                        file.string(), name, kDocuments));
}

void check_corpus_content(const ArtifactNode& node, const ArtifactNode* tokenizer, ContentCheck& check) {
  const auto lists = [&](std::string_view name) {
    return std::ranges::any_of(node.lineage()->files, [&](const FileRecord& f) { return f.name == name; });
  };
  if (!lists(kTokens)) {  // nothing can be trained on it
    if (lists("commitment.json")) check.notes.emplace_back("holds no tokens: what a model reads of its documents is not shown");
    return;
  }
  CorpusChecker checker(node, tokenizer, check);
  checker.options();
  checker.documents();
  checker.sums();
}

void check_index_content(const ArtifactNode& index, const ArtifactNode& corpus, ContentCheck& check) {
  const auto fault = [&](std::string what) {
    check.faults.push_back({"documents.safetensors", std::move(what), "make the index again"});
  };
  const SpanIndex texts(index.path);
  const MappedFile table(corpus.path / kDocuments);
  Progress progress("index", texts.documents(), "documents");
  int64_t at = 0, lines = 0;
  bool same = true;
  for_each_line(table, [&](std::string_view line, int64_t offset) {
    ++lines;
    if (!same || at == texts.documents()) return;
    if (at % 1024 == 0) throw_if_interrupted();
    const Document document = parse_document(line, table.path(), offset);
    if (texts.record_offset(at) != offset || sha256(texts.text_of(at)) != document.digest) {
      fault(fmt::format("document {} is not '{}', which '{}' has at this place", at, document.name, corpus.name));
      same = false;
    }
    progress.update(++at);
  });
  if (same && lines != texts.documents())
    fault(fmt::format("has {} documents, '{}' has {}", texts.documents(), corpus.name, lines));
}

}  // namespace overproof
