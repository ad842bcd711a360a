// documents.jsonl with streams of ten and five tokens: refused with a FormatError, or every token has its document.

#include <fmt/format.h>

#include "core/error.h"
#include "core/json.h"
#include "data/corpus.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::FuzzFolder folder;
  [[maybe_unused]] static const bool ready = [] {
    OutputFolder out(folder.path());
    SafetensorsWriter stream(
        out, "tokens.safetensors", {{"train", DType::u16, {10}}, {"held_out", DType::u16, {5}}},
        {{"vocab_size", "16"}, {"window_length", "4"}, {"separator", "0"}, {"tokenizer_probe", std::string(64, '0')}});
    const uint16_t ids[15] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 0};
    stream.append(ids, sizeof ids);
    stream.close();
    return true;
  }();
  folder.put("documents.jsonl", {reinterpret_cast<const char*>(data), size});
  try {
    const Corpus corpus(folder.path());
    for (const Split split : {Split::train, Split::held_out}) {
      for (int64_t p = 0; p < corpus.tokens(split); ++p) {
        const Document& d = corpus.document_at(split, p);
        fuzz::require(d.split == split && p >= d.first_token && p < d.first_token + d.tokens && corpus.find(d.name) == &d);
      }
    }
  } catch (const FormatError&) {
  }
  if (size > 512) return 0;
  // A table of many documents, each with the fuzzer's bytes in its name. Its streams are too short: that is known at its end.
  fuzz::require_linear([&](size_t copies) {
    std::string table;
    for (size_t i = 0; i < copies; ++i)
      table += dump_text(Json{{"digest", std::string(56, '0') + fmt::format("{:08x}", i)},
                              {"name", std::string(reinterpret_cast<const char*>(data), std::min<size_t>(size, 64)) + std::to_string(i)},
                              {"source", "s"},
                              {"license", "MIT"},
                              {"license_rule", "given"},
                              {"bytes", 1},
                              {"split", "train"},
                              {"first_token", i},
                              {"tokens", 1}}) +
               "\n";
    folder.put("documents.jsonl", table);
    try {
      Corpus(folder.path());
    } catch (const FormatError&) {
    }
  });
  return 0;
}
