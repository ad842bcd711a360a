#include "remote/import_targets_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "data/corpus.h"
#include "data/order.h"
#include "data/tokenizer.h"
#include "formats/teacher_answer.h"
#include "records/soft_targets.h"
#include "remote/capture_plan.h"

namespace overproof {
namespace {

/// Rows of a document, by the place of the token that they follow.
struct DocumentRows {
  std::vector<uint8_t> lengths, entries;
  std::vector<size_t> offsets = {0};
};

Digest digest_of(std::span<const int32_t> ids) {
  return sha256(std::span(reinterpret_cast<const uint8_t*>(ids.data()), ids.size() * sizeof(int32_t)));
}

class RowReader {
 public:
  RowReader(const fs::path& file, int64_t vocab, int64_t top) : file_(file), vocab_(vocab), top_(top) {}

  std::vector<int32_t> read(std::string_view line, int64_t offset, DocumentRows& rows) const {
    const Json json = parse_json(line, file_, offset);
    const auto fail = [&](const std::string& cause) { throw FormatError(file_, offset, cause); };
    if (!json.is_object()) fail("is not one JSON object a line");
    const JsonObject record(json, file_, "", JsonNull::value, offset);
    const Json &list = record.list("ids"), &tops = record.list("top_ids"), &logs = record.list("top_logs");
    if (list.empty() || tops.size() != list.size() || logs.size() != list.size())
      fail(fmt::format("'ids', 'top_ids' and 'top_logs' have {}, {} and {} elements", list.size(), tops.size(), logs.size()));
    std::vector<int32_t> ids;
    for (size_t i = 0; i < list.size(); ++i) {
      ids.push_back(id_in(list[i], offset));
      if (!tops[i].is_array() || !logs[i].is_array() || tops[i].size() != logs[i].size())
        fail(fmt::format("row {}: 'top_ids' and 'top_logs' are not lists of one length", i));
      AnsweredRow row;
      for (size_t j = 0; j < tops[i].size(); ++j) {
        if (!logs[i][j].is_number()) fail(fmt::format("row {}: a log-probability is no number", i));
        row.ids.push_back(id_in(tops[i][j], offset));
        row.logs.push_back(float(logs[i][j].get<double>()));
      }
      if (const std::string fault = tidy_row(row, top_); !fault.empty()) fail(fmt::format("row {}: {}", i, fault));
      rows.lengths.push_back(uint8_t(encode_log_probabilities(row.ids, row.logs, rows.entries)));
      rows.offsets.push_back(rows.entries.size());
    }
    return ids;
  }

 private:
  int32_t id_in(const Json& id, int64_t offset) const {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_)
      throw FormatError(file_, offset, fmt::format("a token id is not a whole number below {}", vocab_));
    return int32_t(id.get<int64_t>());
  }
  const fs::path& file_;
  int64_t vocab_, top_;
};

/// The documents of the training stream by their ids, without and with the separator.
std::map<Digest, std::vector<size_t>> documents_by_ids(const Corpus& corpus, const std::vector<int32_t>& stream) {
  std::map<Digest, std::vector<size_t>> found;
  const auto& documents = corpus.documents();
  for (size_t d = 0; d < documents.size(); ++d) {
    const Document& document = documents[d];
    if (document.split != Split::train || document.tokens < 2) continue;
    const auto ids = std::span(stream).subspan(size_t(document.first_token), size_t(document.tokens));
    found[digest_of(ids)].push_back(d);
    found[digest_of(ids.first(ids.size() - 1))].push_back(d);
  }
  return found;
}

/// The ids of whole windows, which is all that targets are about.
std::vector<int32_t> training_stream(const Corpus& corpus) {
  const int64_t length = corpus.window_length();
  std::vector<int32_t> stream(size_t(corpus.tokens(Split::train)), -1);
  std::vector<int64_t> window(size_t(length) + 1);
  for (int64_t w = 0; w < corpus.windows(Split::train); ++w) {
    corpus.read_window(Split::train, w, window);
    std::ranges::transform(window, stream.begin() + w * length, [](int64_t id) { return int32_t(id); });
  }
  return stream;
}

}  // namespace

StageReport run_import_targets(const ImportTargetsConfig& config, const Inputs& inputs, Outputs& outputs) {
  const Corpus corpus(inputs.path("corpus"));
  require_tokenizer(inputs.path("teacher"), corpus.tokenizer(), "the corpus");
  const int64_t length = corpus.window_length(), blocks = capture_blocks(corpus, config.tokens);
  const std::vector<int32_t> stream = training_stream(corpus);
  const auto by_ids = documents_by_ids(corpus, stream);
  const auto& documents = corpus.documents();
  std::map<size_t, DocumentRows> rows;  // by document
  int64_t records = 0, used = 0;
  {
    const MappedFile table(inputs.path("source"));
    const RowReader reader(table.path(), corpus.vocab_size(), config.top_k);
    for_each_line(table, [&](std::string_view line, int64_t offset) {
      throw_if_interrupted();
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
      DocumentRows read;
      const std::vector<int32_t> ids = reader.read(line, offset, read);
      ++records;
      const auto found = by_ids.find(digest_of(ids));
      if (found == by_ids.end()) return;
      ++used;
      for (const size_t document : found->second)
        if (!rows.emplace(document, read).second)
          throw FormatError(table.path(), offset, fmt::format("document '{}' has targets twice", documents[document].name));
    });
  }
  const Digest key = order_key(inputs.root("corpus"), config.seed, config.order_beacon);
  const TrainingOrder order(key, corpus.windows(Split::train), blocks);
  const RowEncoding encoding{RowEncoding::Kind::top_k, config.top_k, 1.0, config.seed};
  BatchSpool spool(outputs.scratch(), outputs.stage_key(), {encoding.entry_bytes(), length, blocks * length});
  int64_t scored = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    EncodedRows encoded;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t position = order.window_of_block(block) * length + i;
      const Document& document = corpus.document_at(Split::train, position);
      const auto found = rows.find(size_t(&document - documents.data()));
      const auto place = size_t(position - document.first_token);
      if (found == rows.end() || place >= found->second.lengths.size()) {
        encoded.lengths.push_back(0);
        continue;
      }
      const DocumentRows& of = found->second;
      encoded.lengths.push_back(of.lengths[place]);
      encoded.entries.insert(encoded.entries.end(), of.entries.begin() + ptrdiff_t(of.offsets[place]), of.entries.begin() + ptrdiff_t(of.offsets[place + 1]));
      scored += of.lengths[place] > 0;
    }
    if (block >= spool.batches()) spool.append(encoded);
  }
  if (double(scored) < config.least_coverage * double(blocks * length))
    throw QualityError(fmt::format("{} of {} tokens have targets, less than option 'least-coverage' of {}: {} of {} records are documents of this corpus, id "
                                   "for id; make the corpus of the same texts with the same tokenizer",
                                   scored, blocks * length, config.least_coverage, used, records));
  const SoftTargetsSize size = write_soft_targets({.origin = {.corpus_root = inputs.root("corpus"),
                                                              .teacher_root = inputs.root("teacher"),
                                                              .order_key = key,
                                                              .order_beacon = config.order_beacon,
                                                              .evidence = Evidence::recorded},
                                                   .encoding = encoding,
                                                   .vocab_size = corpus.vocab_size(),
                                                   .window_length = length,
                                                   .batch_windows = 1,
                                                   .tokenizer = corpus.tokenizer()},
                                                  [&](const auto& body) { spool.for_each(body); }, outputs.folder());
  StageReport report;
  report.metrics() = {{"windows", blocks},
                      {"tokens", size.rows},
                      {"tokens_with_targets", scored},
                      {"records", records},
                      {"records_used", used},
                      {"evidence", evidence_name(Evidence::recorded)}};
  report.summary = {fmt::format("{} tokens in {} windows of {}, {} of them with targets ({:.1f} %)", size.rows, blocks, length, scored,
                                100 * double(scored) / double(size.rows)),
                    fmt::format("{} of {} records are documents of the corpus", used, records), "evidence: recorded; no audit can compute these rows again"};
  return report;
}

}  // namespace overproof
