#pragma once
// The corpus artifact: which documents, under which licences, and their tokens.
//
//   documents.jsonl      one record a document, ordered by source and name, as in both streams (fields of Document)
//   tokens.safetensors   "train" and "held_out": U16 [tokens] when the vocabulary fits, else U32; metadata: vocab_size,
//                        tokenizer_probe, tokenizer_definition, tokenizer_format (formats/tokenizer_identity.h), separator (id put
//                        after every document), window_length. With conversations also "train_mask" and "held_out_mask": U8 [tokens], 1 where a
//                        student should learn to write the token, 0 where not; and of metadata, document_attention ("on": a token attends
//                        only to its own document, and positions begin anew in each; data/token_batch.h)
//   licenses.json        documents and bytes by licence and by source
//   commitment.json, tiles.safetensors, index.safetensors
//                        Merkle trees over the documents: data/commitment.h
//   texts/<source>.jsonl the documents' UTF-8 text, so that any digest can be checked: {name, digest, text}, one file a source,
//                        named by texts_file_name() (data/texts_file.h). Of a conversation also "quoted" and "trained": lists of
//                        [begin, end) in bytes, as in MarkedDocument (data/chat_document.h)

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/stage.h"
#include "data/jinja_engine.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_identity.h"

namespace overproof {

enum class Split { train, held_out };

/// license_rule of a document from an artifact of `sample`: its licence is the one chosen there, by the teacher's terms.
inline constexpr const char* kSampledRule = "sampled";

struct Document {
  Digest digest;             ///< SHA-256 of the UTF-8 text
  std::string name;          ///< "manpages-dev/man2/accept.2", unique
  std::string source;        ///< the package
  std::string license;       ///< as its copyright file names it
  std::string license_rule;  ///< how it was found: LicenseMatch::rule of data/dep5.h, "given", or kSampledRule
  int64_t bytes = 0;
  Split split = Split::train;
  int64_t first_token = 0;  ///< in its split's stream
  int64_t tokens = 0;       ///< with the separator
  int64_t trained = -1;     ///< of a conversation: how many of its tokens are trained; else all are, and this is -1
  double weight = 1;        ///< in (0, 1]: of its tokens in the loss of training, as `verify-samples` chose
  std::string teacher = {};  ///< which of several teachers of `distill` is responsible for it; "": the records named none
};

/// What texts/*.jsonl holds of a document.
struct StoredText {
  std::string text;
  bool marked = false;  ///< a conversation, with:
  std::vector<ByteRange> quoted, trained;
};

/// One line of documents.jsonl, without its newline, `offset` bytes into `file`. Throws FormatError.
Document parse_document(std::string_view line, const fs::path& file, int64_t offset);
/// Calls visit(line, offset) for every line of a mapped file, without its newline.
void for_each_line(const MappedFile& file, const std::function<void(std::string_view line, int64_t offset)>& visit);

class Corpus {
 public:
  explicit Corpus(const fs::path& artifact);  ///< throws FormatError when table and stream disagree
  const std::vector<Document>& documents() const { return documents_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t window_length() const { return window_length_; }
  const TokenizerIdentity& tokenizer() const { return tokenizer_; }
  const Digest& tokenizer_probe() const { return tokenizer_.probe; }
  int64_t tokens(Split split) const;
  /// Windows with a label for each position: (tokens - 1) / window_length.
  int64_t windows(Split split) const;
  /// The window_length + 1 ids from window x window_length on: inputs are all but the last, labels all but the first.
  void read_window(Split split, int64_t window, std::span<int64_t> ids) const;
  bool has_mask() const { return has_mask_; }
  /// Of the labels of a window, [window_length]: 1 where the label is trained, 0 where not. All 1 without a mask.
  void read_mask(Split split, int64_t window, std::span<float> mask) const;
  bool has_weights() const { return has_weights_; }  ///< a document's weight is not 1
  /// The mask with each label's share of the weight of its document: what training multiplies losses by.
  void read_weights(Split split, int64_t window, std::span<float> weights) const;
  bool document_attention() const { return document_attention_; }
  /// The document that holds token `position` of the split's stream.
  const Document& document_at(Split split, int64_t position) const;
  /// By name or by digest (hex, with or without "sha256:"); nullptr when there is none.
  const Document* find(std::string_view name_or_digest) const;

 private:
  SafetensorsFile stream_;
  std::vector<Document> documents_;
  std::vector<size_t> order_[2];             // indices into documents_ by split, in stream order
  std::vector<size_t> by_name_, by_digest_;  // and sorted, for find()
  int64_t vocab_size_ = 0, window_length_ = 0;
  bool has_mask_ = false, has_weights_ = false, document_attention_ = false;
  TokenizerIdentity tokenizer_;
};

/// The file below an artifact that holds a source's texts: "texts/<source>.jsonl".
std::string texts_file_name(std::string_view source);

/// A digest in hexadecimal, nothing for any other text, such as a document's name.
std::optional<Digest> as_digest(std::string_view text);

/// Calls `visit` for every document of the artifact with its text, in the order of the table, one line in memory at a time.
void for_each_text(const fs::path& artifact, const std::function<void(const Document&, std::string_view text)>& visit);
/// The same with all that is stored of each.
void for_each_stored_text(const fs::path& artifact, const std::function<bool(const Document&, const StoredText&)>& visit);
/// As for_each_text, until `visit` returns false.
void for_each_text_while(const fs::path& artifact, const std::function<bool(const Document&, std::string_view text)>& visit);

}  // namespace overproof
