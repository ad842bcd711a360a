// SentencePiece models: what our check lets pass may not bring the library down.

#include "core/error.h"
#include "data/sentencepiece_tokenizer.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = make_sentencepiece(bytes, "fuzz.model");
    const SentencePieceVocabulary vocabulary = read_sentencepiece_vocabulary(bytes, "fuzz.model");
    fuzz::require(int64_t(vocabulary.pieces.size()) == tokenizer->vocab_size());
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id)
      fuzz::require(vocabulary.pieces[size_t(id)].text == tokenizer->token_text(id));
    std::vector<int32_t> ids;
    tokenizer->encode("a b \xe4\xb8\xad\xef\xbc\xa1 \xf0\x9f\x98\x80", ids, true);
    tokenizer->encode(bytes.substr(0, 512), ids);
    for (const int32_t id : ids) fuzz::require(id >= 0 && id < tokenizer->vocab_size());
    tokenizer->decode(ids);
  } catch (const FormatError&) {
  }
  return 0;
}
