#pragma once
// Stage "merge-targets": puts the parts together that `teach-shard` made on several machines.

#include "core/stage.h"

namespace overproof {

struct MergeTargetsConfig {
  template <class V>
  void visit(V&&) {}
};

/// Slots: teacher, corpus (of which only the roots are compared), and the parts under any other names. targets.safetensors has the bytes
/// that `teach` writes with the same options. Throws MismatchError for parts of other inputs or options, for a part that is missing or
/// there twice, and for parts that were computed in different number types.
StageReport run_merge_targets(const MergeTargetsConfig& config, const Inputs& inputs, Outputs& outputs);

}  // namespace overproof
