#pragma once
// The teachers of a distillation: soft targets, decoders that run alongside, a mixture of them, or one for each document.

#include <memory>
#include <string>

#include "core/json_fwd.h"
#include "core/stage.h"
#include "data/corpus.h"
#include "distill/distill_stage.h"
#include "records/soft_targets.h"
#include "teacher/signal.h"

namespace overproof {

struct Teachers {
  std::unique_ptr<TeacherSignal> signal;    ///< of training
  std::unique_ptr<TeacherSignal> held_out;  ///< that evaluations compare with; null: none runs alongside
  bool alongside = false;                   ///< all that `signal` is made of are decoders
  std::shared_ptr<const Json> facts;        ///< for metrics: a list with the share of each in the mixture or in the documents
};

/// The soft targets in a slot. Throws MismatchError when they are not of this corpus, in its order.
std::shared_ptr<const SoftTargets> open_targets(const Corpus& corpus, const Inputs& inputs, const std::string& slot = "targets");

/// `targets`: those of the slot "targets", or null. Every slot but "student", "corpus", "tasks" and "command" is a teacher under its name. Throws UsageError for names
/// that are not there, teachers that neither a mixture nor a route uses and options that exclude each other, and as DocumentRoutes,
/// mixed_signal() and routed_signal().
Teachers open_teachers(const DistillConfig& config, const Inputs& inputs, const std::shared_ptr<const Corpus>& corpus,
                       const std::shared_ptr<const SoftTargets>& targets);

}  // namespace overproof
