#include "distill/trained_files.h"

#include "data/tokenizer_files.h"
#include "formats/generation_config.h"
#include "model/decoder_config.h"

namespace overproof {
namespace {

void set_repetition_penalty(double penalty, OutputFolder& folder) {
  if (penalty == 0) return;
  const fs::path file = folder.path() / kGenerationConfigFile;
  folder.write_file(kGenerationConfigFile, with_repetition_penalty(fs::exists(file) ? read_file(file) : "", penalty, file));
}

}  // namespace

void write_companions(const fs::path& parent, double repetition_penalty, OutputFolder& folder) {
  copy_companions_noted(parent, folder);
  set_repetition_penalty(repetition_penalty, folder);
}

void write_tokenizer(const fs::path& tokenizer, double repetition_penalty, OutputFolder& folder) {
  copy_tokenizer_files(tokenizer, folder);
  set_repetition_penalty(repetition_penalty, folder);
}

void write_model_files(const Training& training, DType dtype, const fs::path& parent, double repetition_penalty, OutputFolder& folder) {
  save_decoder_config(training.student().config(), folder, dtype);
  write_companions(parent, repetition_penalty, folder);
}

void write_new_model_files(const Training& training, DType dtype, const fs::path& tokenizer, double repetition_penalty, OutputFolder& folder) {
  save_decoder_config(training.student().config(), folder, dtype);
  write_tokenizer(tokenizer, repetition_penalty, folder);
}

void write_trained_counts(const Training& training, const fs::path& parent, bool kept, OutputFolder& folder) {
  if (kept && training.routing() && training.steps() > 0) write_router_counts(folder, *training.routing(), parent);
  else if (has_router_counts(parent)) write_router_counts(folder, read_router_counts(parent));
}

}  // namespace overproof
