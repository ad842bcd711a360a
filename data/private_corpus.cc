#include "data/private_corpus.h"

#include "formats/metadata.h"
#include "provenance/corpus_proof.h"

namespace overproof {

std::optional<Digest> corpus_batch_salt(const fs::path& corpus) {
  const SafetensorsFile tokens(corpus / "tokens.safetensors");
  if (!tokens.metadata().contains(kBatchSalt)) return std::nullopt;
  return metadata_digest(tokens, kBatchSalt);
}

Digest salted_batch_root(const Digest& root, const std::optional<Digest>& salt) {
  if (!salt) return root;
  Sha256 hash;
  hash.update("overproof salted batch v1");
  for (const Digest* part : {&*salt, &root}) hash.update(part->bytes.data(), part->bytes.size());
  return hash.finish();
}

Digest draw_key(const Digest& document, const std::optional<Digest>& salt) {
  return salt ? corpus_leaf_value(document, salt) : document;
}

}  // namespace overproof
