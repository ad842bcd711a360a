#pragma once
// A tiny random teacher and a corpus of two documents, for the tests of teacher/.

#include <fmt/format.h>

#include "core/json.h"
#include "core/utf8.h"
#include "data/bpe.h"
#include "data/corpus_stage.h"
#include "model/decoder.h"
#include "tests/model/random_model.h"
#include "tests/support.h"

namespace overproof {

/// Tokenizer of single bytes and one end token.
inline std::string byte_tokenizer(const std::string& end_token) {
  BpeDefinition d;
  for (int b = 0; b < 256; ++b) append_utf8(d.tokens.emplace_back(), byte_level_char(uint8_t(b)));
  d.pre_tokenizer = {{kGpt2Pattern}};
  d.tokens.push_back(end_token);
  d.added = {{.id = 256, .text = end_token, .special = true}};
  d.bos = d.eos = 256;
  return write_tokenizer_json(d);
}

inline ModelConfig tiny_config() {
  ModelConfig c = random_dense_config();
  c.vocab_size = 257;
  c.hidden_size = 24;
  c.intermediate_size = 32;
  c.bos_id = c.eos_id = 256;
  return c;
}

/// A teacher and a corpus of two documents in a folder that goes away with the test.
struct TinyWorld {
  TempFolder folder;
  const fs::path& path = folder.path();
  TinyWorld() {
    fs::create_directories(path / "teacher");
    OutputFolder teacher(path / "teacher");
    const ModelConfig config = tiny_config();
    save_decoder(Decoder(config, RandomSource(config)), teacher, DType::f32);
    teacher.write_file("tokenizer.json", byte_tokenizer("<|endoftext|>"));
    fs::create_directories(path / "source");
    std::string records;
    for (int i = 0; i < 2; ++i) {
      std::string text;
      for (int line = 0; line < 12; ++line) text += fmt::format("document {} says {} in line {}\n", i, line * line, line);
      write_file_atomically(path / "source" / fmt::format("{}.txt", i), text);
      records += Json{{"name", fmt::format("{}.txt", i)}, {"license", "CC0-1.0"}, {"source", "test"}, {"teacher", i == 0 ? "first" : "second"}}.dump() + "\n";
    }
    write_file_atomically(path / "source/documents.jsonl", records);
    CorpusConfig corpus;
    corpus.held_out = 0;
    corpus.window_length = 32;
    Outputs outputs = fresh("corpus");
    run_corpus(corpus, Inputs({{"source", {path / "source", {}}}, {"tokenizer", {path / "teacher", {}}}}), outputs);
  }
  /// All outputs have one stage key, so that a stage resumes from a scratch folder that a test fills.
  Outputs fresh(const std::string& name) const {
    fs::create_directories(path / name);
    fs::create_directories(path / (name + ".scratch"));
    return Outputs(path / name, path / (name + ".scratch"), {}, sha256("stage key"));
  }
  Inputs inputs() const {
    return Inputs({{"teacher", {path / "teacher", sha256("teacher")}}, {"corpus", {path / "corpus", sha256("corpus")}}});
  }
};

}  // namespace overproof
