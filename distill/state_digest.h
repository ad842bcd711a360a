#pragma once
// Digests of all that a later step depends on: the model's weights and the optimizer's moments (records/step_records.h for the
// form).

#include <map>
#include <set>
#include <string>

#include "records/step_records.h"
#include "distill/trainer.h"

namespace overproof {

/// Digests `model` as `trainer` trains it; both must outlive this. Tensors are digested side by side, each by one thread, so the
/// result does not depend on how many there are. Weights that are not trained are digested once.
class StateDigester {
 public:
  StateDigester(const Decoder& model, const Trainer& trainer);
  /// Equal to digest_of_checkpoint() of the model saved now as f32.
  Digest weights();
  Digest optimizer() const;
  int64_t bytes() const;  ///< that one digest of the state goes over, without what is frozen

 private:
  const Decoder& model_;
  const Trainer& trainer_;
  std::set<const void*> trained_;  // storages that change
  std::map<std::string, Digest> frozen_;
};

/// The digest of the model's weights, as digest_of_checkpoint() has it.
Digest digest_of_weights(const Decoder& model);

/// The same with those tensors rounded that `published` holds as bf16 or f16. `rounded`: whether there are any.
Digest digest_rounded_as(const Decoder& model, const TensorSource& published, bool& rounded);

/// Steps between digests of the state that cost at most about a hundredth of the training, whatever the machine. A digest takes
/// time by the parameter, a step by parameter and token, and the ratio of the two hardly differs between machines: so a digest
/// every so many tokens. `asked` >= 0 is taken as it is.
int64_t digest_interval(int64_t asked, int64_t step_tokens);

}  // namespace overproof
