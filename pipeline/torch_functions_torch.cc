// The one place that names the functions which need libtorch.

#include "distill/calibrate_stage.h"
#include "distill/distill_stage.h"
#include "distill/pretrain_stage.h"
#include "distill/replay.h"
#include "evaluate/activations_stage.h"
#include "evaluate/arena_stage.h"
#include "evaluate/evaluate_stage.h"
#include "evaluate/evidence_compare.h"
#include "pipeline/quantize_checked.h"
#include "pipeline/torch_functions.h"
#include "student/carve_stage.h"
#include "student/observe_stage.h"
#include "student/recover_stage.h"
#include "student/shrink_stage.h"
#include "student/tiny_teacher_stage.h"
#include "student/upcycle_stage.h"
#include "teacher/check_rows.h"
#include "teacher/generate.h"
#include "teacher/logits.h"
#include "teacher/sample_stage.h"
#include "teacher/teach_stage.h"

namespace overproof {
namespace {

template <class Result, class... Arguments>
void bind_function(Result (*function)(Arguments...)) {
  TorchFunction<Result(Arguments...)>::bound = function;
}

}  // namespace

void bind_torch_functions() {
  bind_function(run_tiny_teacher);
  bind_function(run_teach);
  bind_function(run_teach_shard);
  bind_function(run_sample);
  bind_function(run_observe);
  bind_function(run_carve);
  bind_function(run_upcycle);
  bind_function(run_shrink);
  bind_function(run_recover);
  bind_function(run_pretrain);
  bind_function(run_distill);
  bind_function(run_calibrate);
  bind_function(run_activations);
  bind_function(quantize_and_measure);
  bind_function(run_evaluate);
  bind_function(run_arena);

  bind_function(run_generate);
  bind_function(run_logits);
  bind_function(audit_rows);
  bind_function(audit_replay);
  bind_function(audit_compare);
  note_torch_is_bound();
}

}  // namespace overproof
