#include "distill/trained_files.h"

#include "data/tokenizer_files.h"
#include "model/decoder_config.h"

namespace overproof {

void write_model_files(const Training& training, DType dtype, const fs::path& parent, OutputFolder& folder) {
  save_decoder_config(training.student().config(), folder, dtype);
  copy_companions_noted(parent, folder);
}

void write_new_model_files(const Training& training, DType dtype, const fs::path& tokenizer, OutputFolder& folder) {
  save_decoder_config(training.student().config(), folder, dtype);
  copy_tokenizer_files(tokenizer, folder);
}

void write_trained_counts(const Training& training, const fs::path& parent, bool kept, OutputFolder& folder) {
  if (kept && training.routing() && training.steps() > 0) write_router_counts(folder, *training.routing(), parent);
  else if (has_router_counts(parent)) write_router_counts(folder, read_router_counts(parent));
}

}  // namespace overproof
