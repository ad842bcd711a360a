#pragma once
// Stage `corpus`: documents and their licences become the artifact of data/corpus.h.
//
// Input "source" is one of
//   <source>/<package>/<path>.txt with <source>/<package>/copyright (machine-readable): licences by stanza, data/dep5.h
//   <source>/<file>.txt: the same without packages; the source of these documents is the folder's name
//   <source>/documents.jsonl, or a file FILE.jsonl: a JSON object a line, in UTF-8, blank lines left out:
//     {"text": "...", "name": "notes/1", "license": "CC0-1.0", "source": "notes"}
//     "name" may be any text; without it the document is called FILE.jsonl:<line>. Without "text" it is a file inside the folder.
//     "license" and "source" are "unspecified" where they are missing, null or empty. "teacher" may name the teacher that is responsible
//     for the document, for `distill --route-by teacher`.
//     Or a conversation (data/chat_records.h), which the chat template of the tokenizer's model renders. What the assistant's turns
//     became is trained, all else is masked: data/chat_document.h. Options min-bytes and max-bytes count the rendered text; cut-bytes does not cut it.
//   a single text
// Texts are files that end in .txt or .md; hidden files are left out, others are counted. In the first two, a document is called
// "<package>/<path>" and "<path>" (of .txt without the ending), and its licence is "unspecified" without a copyright file that can
// be read. A document at fault, such as a record that is not JSON, a name that occurred before or a text in another encoding, is
// broken: the stage fails, or leaves out as many as allow-broken permits and names them with their lines. Nothing is normalised: the
// digest of a document is that of its bytes, line ends and byte-order mark included.
// A marker of chats that is spelled out in such a text is text, not a special token. Windows are drawn evenly, so where few samples
// should count next to many texts, options `cut-bytes` and `source-share` take less of the texts.
// Input "samples", instead of "source" or together with it: an artifact of the stage `sample`, which has the second layout. It is
// part of the lineage. "weight" of its records, in (0, 1], multiplies the losses of the document's tokens. With the teacher's own tokenizer its documents keep the ids that were drawn, chat markers included
// (teacher/sample_stage.h), after a check that they spell the text; with another, their texts are encoded like all others.
// Input "tokenizer" is anything that open_tokenizer takes, usually the teacher.
// Input "chat-template" (optional): a Jinja file that renders conversations instead, such as a template for training.
// Input "salt" (optional) makes the corpus private: a file of 32 random bytes that only its owner may read. The Merkle
// trees then hold salted values (provenance/corpus_proof.h). When such a corpus is published, everything but
// commitment.json and the signatures must be withheld, because the table and the texts reveal what the trees hide.

#include <string>

#include "core/config.h"
#include "core/stage.h"
#include "data/chat_document.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

namespace overproof {

/// Whether tokens attend across the documents in a window.
enum class DocumentAttention { automatic, on, off };

struct CorpusConfig {
  int64_t min_bytes = 64;
  int64_t max_bytes = 1 << 22;
  int64_t cut_bytes = 0;
  double source_share = 1.0;
  double held_out = 0.05;
  int64_t window_length = 256;
  std::string separator;
  int64_t allow_broken = 0;
  TrainedTurns train_turns = TrainedTurns::all;
  DocumentAttention document_attention = DocumentAttention::automatic;
  template <class V>
  void visit(V&& v) {
    v("min-bytes", min_bytes, at_least(0), "shorter documents are left out, and counted");
    v("max-bytes", max_bytes, in_range(1, 1 << 28), "longer documents are left out, and counted");
    v("cut-bytes", cut_bytes, in_range(0, 1 << 28),
      "of a longer document of 'source' only the beginning is taken, to the last whole character; 0: all of it");
    v("source-share", source_share, in_range(1e-6, 1), "fraction of the documents of 'source' that are taken, chosen by keyed digest");
    v("held-out", held_out, in_range(0, 0.9), "fraction of documents kept for evaluation, chosen by keyed digest");
    v("window-length", window_length, in_range(2, 1 << 20), "tokens of a training window");
    v("separator", separator, any_value(),
      "the token put after every document; empty: end of text, or else the tokenizer's end token");
    v("allow-broken", allow_broken, at_least(0), "how many broken documents (not UTF-8, no JSON, unreadable, a name twice) may be skipped");
    v("train-turns", train_turns, enum_of<TrainedTurns>({{"all", TrainedTurns::all}, {"last", TrainedTurns::last}}),
      "of a conversation: which of the assistant's turns a student learns to write");
    v("document-attention", document_attention,
      enum_of<DocumentAttention>({{"auto", DocumentAttention::automatic}, {"on", DocumentAttention::on}, {"off", DocumentAttention::off}}),
      "on: a token attends only to its own document, and positions begin anew in each; off: to all of the window before it; auto: on where "
      "there are conversations");
  }
};

/// The id that is put after every document: that of the token `text`; empty: of <|endoftext|>, else the tokenizer's end token.
/// Throws UsageError when there is no such token.
int32_t separator_of(const Tokenizer& tokenizer, const std::string& text);

/// Keyed by a fixed label alone, so the same document is held out in every corpus that asks for the same fraction.
Split split_of(const Digest& document, double held_out);
/// Whether a document of "source" is among those that option `source-share` takes.
bool in_source_share(const Digest& document, double share);

/// Documents with the same digest are kept once, under the first name in order. The artifact does not depend on the number
/// of threads. Memory: one batch of documents, and about 300 bytes for each document.
/// Throws UsageError when neither "source" nor "samples" is bound, FormatError naming the document when more than allow_broken are
/// broken, or the copyright file that is at fault, or the source when no document of it is left.
StageReport run_corpus(const CorpusConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
