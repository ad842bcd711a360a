#include "model/open_model.h"

#include "data/tokenizer.h"

namespace overproof {

Decoder open_model_for(const Corpus& corpus, const Inputs& inputs, const std::string& slot, const Placement& placement) {
  require_tokenizer(inputs.path(slot), corpus.tokenizer(), "the corpus");
  return Decoder(open_checkpoint(inputs.path(slot)), placement);
}

}  // namespace overproof
