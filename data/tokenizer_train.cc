// `overproof tokenizer train`: a new SentencePiece vocabulary, by the SentencePiece library's own trainer.

#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "core/error.h"
#include "core/real_path.h"
#include "core/file.h"
#include "core/interrupt.h"
#include "core/utf8.h"
#include "data/corpus.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/tokenizer_tools.h"

namespace overproof {

namespace {

/// Cuts a text into the lines that the trainer takes as sentences; a longer line is cut between characters.
void append_lines(std::string_view text, size_t most_bytes, std::vector<std::string>& lines) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    while (!line.empty()) {
      size_t end = std::min(line.size(), most_bytes);
      while (end < line.size() && end > 1 && (uint8_t(line[end]) & 0xc0) == 0x80) --end;
      lines.push_back(to_valid_utf8(line.substr(0, end)));
      line.remove_prefix(end);
    }
  }
}

std::vector<std::string> read_lines(const fs::path& input, size_t most_bytes) {
  std::vector<std::string> lines;
  if (!fs::exists(input)) throw IoError(input, "cannot open the input", ENOENT);
  if (!fs::is_directory(input)) {
    append_lines(read_file(input), most_bytes, lines);
  } else if (fs::exists(input / "documents.jsonl") && fs::exists(input / "tokens.safetensors")) {
    // Held-out documents must stay unseen by everything that is trained.
    for_each_text(input, [&](const Document& document, std::string_view text) {
      throw_if_interrupted();
      if (document.split == Split::train) append_lines(text, most_bytes, lines);
    });
  } else {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(input)) {
      if (entry.is_regular_file() && entry.path().extension() == ".txt") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) {
      throw_if_interrupted();
      append_lines(read_file(file), most_bytes, lines);
    }
  }
  if (lines.empty()) throw FormatError(input, -1, "has no text to train on");
  return lines;
}

class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t at_ = 0;
};

}  // namespace

int64_t run_tokenizer_train(const TokenizerTrainConfig& config) {
  if (config.input.empty() || config.out.empty()) throw UsageError("tokenizer train needs --input and --out");
  require_apart(config.out, {{"input", config.input}});
  const std::vector<std::string> lines = read_lines(config.input, size_t(config.max_sentence_bytes));
  Lines iterator(lines);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", config.model},
       {"vocab_size", std::to_string(config.vocab_size)},
       {"character_coverage", fmt::format("{}", config.character_coverage)},
       {"byte_fallback", config.byte_fallback ? "true" : "false"},
       {"normalization_rule_name", config.normalization},
       // Decoding must give the text back: spaces are kept, and no leading one is added.
       {"remove_extra_whitespaces", config.normalization == "identity" ? "false" : "true"},
       {"add_dummy_prefix", "false"},
       {"split_digits", "true"},
       {"max_sentence_length", std::to_string(config.max_sentence_bytes)},
       {"num_threads", "2"},  // a fixed number: partial sums, and so the model, depend on it
       {"minloglevel", "2"}},
      &iterator, &model);
  if (!status.ok()) throw UsageError(fmt::format("SentencePiece cannot train this vocabulary: {}", status.error_message()));
  const auto tokenizer = make_sentencepiece(model, config.out);
  write_file_atomically(config.out, model);
  return tokenizer->vocab_size();
}

}  // namespace overproof
