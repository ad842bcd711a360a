#pragma once
// Compares what a corpus and its index state with the texts that are in them. Digests only show that nothing changed since the
// maker signed; this shows that tokens, splits, licences and sums are those that the corpus stage makes of these texts.
//
// Not shown, because what was left out is not in the artifact: that duplicates, too short, too long and broken documents were
// counted as they were, and by which rule a licence was found. `audit recompute --file source=FOLDER` makes all of it again.

#include "audit/content.h"
#include "provenance/run_folder.h"

namespace overproof {

/// Every text against its digest and length; every document's tokens against those that the tokenizer makes of its text, or, where
/// `sample` drew them, against the text that they spell; separator, window length, vocabulary, held-out split and limits of length
/// against tokenizer and options; licenses.json and the metrics against the sums of the table. `tokenizer`: null where it is not
/// here or does not hold, which is reported elsewhere; then all but the tokens is compared. Memory: the table, and a batch of texts.
void check_corpus_content(const ArtifactNode& node, const ArtifactNode* tokenizer, ContentCheck& check);

/// licenses.json against the sums of the table, for answers about licences. Throws ProvenanceError. Linear in the table.
void require_license_sums(const ArtifactNode& node);

/// The texts of an index against the digests of the corpus's table, in its order, and the places of the table's lines. That its
/// suffixes are all there and sorted, only `audit recompute` shows.
void check_index_content(const ArtifactNode& index, const ArtifactNode& corpus, ContentCheck& check);

}  // namespace overproof
