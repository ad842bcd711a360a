// The tokenizer in a GGUF: refused with a FormatError, or one that encodes and decodes, and means the same as tokenizer.json.

#include "core/error.h"
#include "data/bpe.h"
#include "data/sentencepiece_tokenizer.h"
#include "fuzz/fuzz_file.h"

using namespace overproof;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::FuzzFile file(data, size);
  try {
    if (const auto pieces = read_gguf_sentencepiece(file.path())) {
      const auto tokenizer = make_sentencepiece(pieces->model, "fuzz.gguf", true);
      std::vector<int32_t> ids;
      tokenizer->encode("It's 1234 words,  \xc3\xa4 <s>\n\n and \xe4\xb8\xad", ids, true);
      for (const int32_t id : ids) fuzz::require(id >= 0 && id < tokenizer->vocab_size());
      tokenizer->decode(ids);
      return 0;
    }
    const BpeDefinition definition = read_gguf_tokenizer(file.path());
    const BpeTokenizer tokenizer(definition, "fuzz.gguf");
    const std::string text(reinterpret_cast<const char*>(data), std::min<size_t>(size, 4096));
    std::vector<int32_t> ids, again;
    for (const std::string& each :
         {std::string("It's 1234 words, \xc3\xa4\xcc\x88 <|im_start|>\n\n  and \xe4\xb8\xad\xf0\x9f\x98\x80"), text}) {
      ids.clear();
      tokenizer.encode(each, ids, true);
      for (const int32_t id : ids) fuzz::require(id >= 0 && id < tokenizer.vocab_size());
      tokenizer.decode(ids);
    }
    try {
      BpeTokenizer(parse_tokenizer_json(write_tokenizer_json(definition), "tokenizer.json"), "tokenizer.json")
          .encode(text, again, true);
      fuzz::require(again == ids);
    } catch (const FormatError&) {  // tokens that JSON cannot hold
    } catch (const MismatchError&) {
    }
  } catch (const FormatError&) {
  }
  return 0;
}
