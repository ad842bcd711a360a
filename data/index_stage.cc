#include "data/index_stage.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "data/corpus.h"
#include "data/private_corpus.h"
#include "data/span_index.h"

namespace overproof {
namespace {

constexpr char kEndOfDocument = '\xff';

/// Where each record of the table begins; as many as there are lines.
std::vector<int64_t> line_offsets(const fs::path& file) {
  const MappedFile table(file);
  const std::string_view all(reinterpret_cast<const char*>(table.bytes().data()), table.bytes().size());
  std::vector<int64_t> offsets;
  for (size_t at = 0; at < all.size(); at = std::min(all.find('\n', at), all.size()) + 1) offsets.push_back(int64_t(at));
  return offsets;
}

class ShardWriter {
 public:
  /// `salt`: of a private corpus, in the metadata of every file, so that its digest confirms no guess.
  ShardWriter(const IndexConfig& config, const Metadata& salt, OutputFolder& folder, Progress& progress)
      : config_(config), salt_(salt), folder_(folder), progress_(progress) {}

  void add(std::string_view text) {
    if (!full_.empty() && !full_.back().empty() && int64_t(full_.back().size() + text.size()) >= config_.shard_bytes)
      next_shard();
    if (full_.empty()) full_.emplace_back();
    if (full_.back().size() + text.size() >= size_t(INT32_MAX))
      throw MismatchError(fmt::format("a document of the corpus has {} bytes, more than can be sorted (2^31)", text.size()));
    full_.back().append(text);
    full_.back().push_back(kEndOfDocument);
  }

  void flush() {
    std::vector<std::vector<uint32_t>> sorted(full_.size());
    parallel_for(int64_t(full_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sorted[size_t(i)] = sort_word_suffixes(full_[size_t(i)]);
    });
    for (size_t i = 0; i < full_.size(); ++i) {
      throw_if_interrupted();
      Metadata metadata = salt_;
      metadata["first_byte"] = std::to_string(bytes);
      SafetensorsWriter writer(
          folder_, shard_file_name(shards),
          {{"suffixes", DType::u32, {int64_t(sorted[i].size())}}, {"text", DType::u8, {int64_t(full_[i].size())}}}, metadata);
      writer.append(sorted[i].data(), sorted[i].size() * sizeof(uint32_t));
      writer.append(full_[i].data(), full_[i].size());
      writer.close();
      ++shards;
      bytes += int64_t(full_[i].size());
      words += int64_t(sorted[i].size());
    }
    full_.clear();
    progress_.update(bytes, fmt::format("{} words", words));
  }

  int64_t shards = 0, bytes = 0, words = 0;  // written

 private:
  void next_shard() {
    throw_if_interrupted();
    if (int64_t(full_.size()) >= config_.at_once) flush();
    full_.emplace_back();
  }
  const IndexConfig& config_;
  const Metadata& salt_;
  OutputFolder& folder_;
  Progress& progress_;
  std::vector<std::string> full_;
};

}  // namespace

StageReport run_index(const IndexConfig& config, const Inputs& inputs, Outputs& outputs) {
  const fs::path& corpus = inputs.path("corpus");
  const std::vector<int64_t> record_offset = line_offsets(corpus / "documents.jsonl");
  std::vector<int64_t> first_byte = {0};
  Progress progress("index", 0, "bytes");
  Metadata salt;
  if (fs::exists(corpus / "tokens.safetensors"))
    if (const auto secret = corpus_batch_salt(corpus)) salt[kSaltMember] = draw_key(sha256(std::string_view("index")), secret).hex();
  ShardWriter writer(config, salt, outputs.folder(), progress);
  for_each_text(corpus, [&](const Document&, std::string_view text) {
    writer.add(text);
    first_byte.push_back(first_byte.back() + int64_t(text.size()) + 1);
  });
  writer.flush();
  const auto documents = int64_t(first_byte.size()) - 1;
  if (documents != int64_t(record_offset.size())) throw FormatError(corpus / "documents.jsonl", -1, "holds empty lines");
  Metadata metadata = salt;
  metadata.insert({{"corpus_root", inputs.root("corpus").hex()}, {"shards", std::to_string(writer.shards)}, {"format_version", "1"}});
  SafetensorsWriter table(outputs.folder(), "documents.safetensors",
                          {{"first_byte", DType::i64, {documents + 1}}, {"record_offset", DType::i64, {documents}}}, metadata);
  table.append(first_byte.data(), first_byte.size() * sizeof(int64_t));
  table.append(record_offset.data(), record_offset.size() * sizeof(int64_t));
  table.close();

  StageReport report;
  report.metrics() = {
      {"documents", documents}, {"bytes", writer.bytes - documents}, {"words", writer.words}, {"shards", writer.shards}};
  report.summary = {fmt::format("{} documents, {} bytes of text, {} words in {} shards", documents, writer.bytes - documents,
                                writer.words, writer.shards)};
  return report;
}

}  // namespace overproof
