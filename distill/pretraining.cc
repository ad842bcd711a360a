#include "distill/pretraining.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "data/private_corpus.h"
#include "data/tokenizer.h"
#include "distill/labels_signal.h"
#include "student/random_tensors.h"

namespace overproof {
namespace {

constexpr uint64_t kPretrainTweak = 0x707265747261696e;  // larger than any number of an epoch

}  // namespace

Decoder initial_decoder(const ModelConfig& shape, double deviation, uint64_t seed) {
  const double residual = 1.0 / std::sqrt(2.0 * double(shape.layers));
  return Decoder(shape, RandomTensors(shape, seed, "pretrain", [=](std::string_view name, int64_t) {
                   return name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") ? deviation * residual : deviation;
                 }));
}

DType pretrained_dtype(WeightDType asked) {
  switch (asked) {
    case WeightDType::bf16:
      return DType::bf16;
    case WeightDType::f16:
      return DType::f16;
    case WeightDType::automatic:
    case WeightDType::f32:
      break;
  }
  return DType::f32;
}

Pretraining make_pretraining(const PretrainConfig& config, const Inputs& inputs) {
  const auto corpus = std::make_shared<const Corpus>(inputs.path("corpus"));
  require_tokenizer(inputs.path("tokenizer"), corpus->tokenizer(), "the corpus");
  const auto tokenizer = open_tokenizer(inputs.path("tokenizer"));
  ModelConfig shape = config.shape(tokenizer->vocab_size());
  shape.bos_id = tokenizer->bos_id();
  shape.eos_id = tokenizer->eos_id();
  if (config.context < corpus->window_length())
    throw UsageError(fmt::format("option 'context' is {}, but the corpus has windows of {} tokens", config.context, corpus->window_length()));
  const int64_t windows = corpus->windows(Split::train), batch = config.training.batch_size;
  if (windows < 1) throw MismatchError("the corpus has no training window");
  const Digest key = order_key(inputs.root("corpus"), config.seed);
  std::unique_ptr<HeldOutLoss> held_out;
  if (config.evaluate_every > 0) held_out = std::make_unique<HeldOutLoss>(held_out_windows(corpus, key, config.evaluate_windows), nullptr);
  auto batches = std::make_unique<WindowBatches>(corpus, Split::train, order_of(Permutation(key, kPretrainTweak, windows), windows), batch,
                                                 config.training.steps > 0 ? config.training.steps : (windows + batch - 1) / batch);
  Training training(std::make_unique<Decoder>(initial_decoder(shape, config.initial_deviation, uint64_t(config.seed))), std::move(batches),
                    labels_signal(shape.vocab_size), {{&kCrossEntropy, 1.0}}, config.training);
  training.salt_batches(corpus_batch_salt(inputs.path("corpus")));
  return {std::move(training), windows, std::move(held_out)};
}

ModelConfig PretrainConfig::shape(int64_t vocab) const {
  if (hidden_size % (2 * heads) != 0 || heads % kv_heads != 0)
    throw UsageError(fmt::format("hidden-size {} must be a multiple of 2 x heads ({}), and heads of kv-heads ({})", hidden_size, heads, kv_heads));
  ModelConfig c;
  c.model_type = "llama";
  c.vocab_size = vocab;
  c.hidden_size = hidden_size;
  c.intermediate_size = intermediate_size;
  c.layers = layers;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = hidden_size / heads;
  c.max_position = context;
  c.rope.theta = rope_theta;
  c.tie_embeddings = !untied;
  return c;
}

}  // namespace overproof
