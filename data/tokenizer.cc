#include "data/tokenizer.h"

#include <fmt/format.h>

#include <optional>

#include "core/error.h"
#include "core/progress_note.h"
#include "core/real_path.h"
#include "core/regex.h"
#include "data/added_token_files.h"
#include "data/bpe.h"
#include "data/sentencepiece_tokenizer.h"
#include "formats/folder_contents.h"

namespace overproof {

namespace fs = std::filesystem;

namespace {

// Letters of several scripts, digits, spaces, newlines, code, an emoji with joiners: where tokenizers differ.
constexpr std::string_view kProbeText =
    "The quick brown fox's 12345 jumps  over\tthe\n\n lazy dog. Größe, naïve, Ελλάδα, Привет, "
    "\xe4\xb8\xad\xe6\x96\x87\xe5\x88\x86\xe8\xaf\x8d, \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb "
    "for (int i = 0; i < n; ++i) { a[i] += 3.14e-7; }   \n\t// don't WON'T I'll\r\n<s> <|endoftext|>";

void put_i64(Sha256& hash, int64_t value) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = uint8_t(uint64_t(value) >> (8 * i));
  hash.update(bytes, 8);
}

}  // namespace

Digest Tokenizer::probe() const {
  Sha256 hash;
  hash.update("overproof tokenizer probe v1");
  put_i64(hash, vocab_size());
  for (const bool parse_special : {false, true}) {
    std::vector<int32_t> ids;
    encode(kProbeText, ids, parse_special);
    put_i64(hash, int64_t(ids.size()));
    for (const int32_t id : ids) put_i64(hash, id);
  }
  // 257 ids spread over the whole vocabulary.
  for (int64_t i = 0; i < 257 && vocab_size() > 0; ++i) {
    const std::string text = token_text(int32_t(i * (vocab_size() - 1) / 256));
    put_i64(hash, int64_t(text.size()));
    hash.update(text);
  }
  return hash.finish();
}

TokenizerIdentity Tokenizer::identity() const { return {probe(), definition_digest(), from_gguf()}; }

void require_tokenizer(const fs::path& model, const TokenizerIdentity& made_by, const std::string& what) {
  if (!made_by.matches(open_tokenizer(model)->identity()))
    throw MismatchError(
        fmt::format("{} was made with another tokenizer than that of {}, so its ids mean other text. Make it again "
                    "with this tokenizer",
                    what, model.filename().string()));
}

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    if (fs::exists(path / "tokenizer.json")) {
      // Folders of Llama 2, Mistral and their kin have the same vocabulary twice: as a BPE with byte fallback, which is not read here, and
      // as the SentencePiece model that it was made from.
      const fs::path model = path / "tokenizer.model";
      try {
        return open_tokenizer(path / "tokenizer.json");
      } catch (const PatternError&) {
        throw;
      } catch (const AddedTokenError&) {
        throw;
      } catch (const FormatError& e) {
        if (!fs::exists(model)) throw;
        progress_note(fmt::format("note: {}; tokenizer.model is used", e.what()));
        return open_tokenizer(model);
      }
    }
    fs::path found;
    for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() != ".model") continue;
      if (!found.empty()) throw UsageError(fmt::format("{} has several .model files; give the path of one", path.string()));
      found = entry.path();
    }
    if (!found.empty()) return open_tokenizer(found);
    if (const std::optional<fs::path> gguf = gguf_in_folder(path)) return open_tokenizer(*gguf);
    throw IoError(path, "has no tokenizer (tokenizer.json, a .model or a .gguf)", 0);
  }
  if (!fs::exists(path)) throw IoError(path, "cannot open the tokenizer", ENOENT);
  if (path.extension() == ".json") return std::make_unique<BpeTokenizer>(read_tokenizer_json(path), path);
  if (path.extension() == ".gguf" || is_gguf(path)) {
    if (const auto pieces = read_gguf_sentencepiece(path)) return make_sentencepiece(pieces->model, path, true);
    return std::make_unique<BpeTokenizer>(read_gguf_tokenizer(path), path);
  }
  if (path.extension() == ".model") return open_sentencepiece(path);
  throw UsageError(
      fmt::format("{}: a tokenizer is a tokenizer.json, a .model, a .gguf, or a folder with one of them", path.string()));
}

}  // namespace overproof
