#include "model/open_model.h"

#include "data/tokenizer.h"
#include "data/tokenizer_files.h"
#include "formats/model_check.h"

namespace overproof {

Decoder open_model_for(const Corpus& corpus, const Inputs& inputs, const std::string& slot, const Placement& placement) {
  require_tokenizer(inputs.path(slot), corpus.tokenizer(), "the corpus");
  const Checkpoint checkpoint = open_checkpoint(inputs.path(slot));
  check_model(checkpoint);
  refuse_damaged_tokenizer(checkpoint.path);
  return Decoder(checkpoint, placement);
}

}  // namespace overproof
