#pragma once
// What is known of a stage before it runs: whether its models can be used for it, and about what memory, disk and time it takes.

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/json_fwd.h"
#include "pipeline/stage_registry.h"

namespace overproof {

/// Checkpoints by slot, where they are known: of a recipe, the file that an import will read represents what is made from it.
using KnownModels = std::map<std::string, fs::path>;

/// Throws UsageError where the options, with the inputs that there are, cannot work whatever these hold. Reads nothing. `bound`: all slots that
/// have an input.
void check_options(const StageSpec& spec, StageInstance& instance, const std::set<std::string>& bound);

/// check_options(), and throws what the stage itself would throw after the stages before it: FormatError for an architecture that cannot be computed here or
/// a tokenizer that cannot be read, MismatchError for a model that this stage cannot take, UsageError for options that need another
/// input. Reads configurations and lists of tensors only.
void check_prerequisites(const StageSpec& spec, StageInstance& instance, const KnownModels& models, const std::set<std::string>& bound);

/// Why a model cannot be used for something, by its architecture and config.json; "" where it can.
struct ModelLimits {
  std::string run;    ///< teach, observe, activations, evaluate, generate, sample
  std::string train;  ///< distill and recover as student, shrink
  std::string carve;
  std::string upcycle;
  std::string gguf;   ///< export, quantize --scheme q8_0

  /// The causes, each once.
  std::vector<std::string> sentences() const;
  Json json() const;  ///< each by its name, null where there is no limit
};
ModelLimits limits_of(const fs::path& checkpoint);

/// Of an order of magnitude: enough to see that a machine, a disk or an evening is too small. The memory of distill with products in f32 and
/// without adapters is within a tenth of the measured peak (tests/interop/test_forecast.py).
struct Forecast {
  double memory_bytes = 0, disk_bytes = 0, seconds = 0;
  int64_t requests = 0, paid_tokens = 0;  ///< to a teacher behind a URL, beyond what was answered before
  Json json() const;
  std::string text() const;  ///< "about 0.5 GB of memory, 0.3 GB of disk, 2 min"
};

/// Nothing known of the model gives zeros, which are left out of the text. `window_length`: of the corpus.
/// `targets_tokens`: of the soft targets, which a distillation without a number of steps passes over once; 0: not known. `out`: the artifact's folder, next to which
/// `capture` has its ledger.
Forecast forecast(const StageSpec& spec, StageInstance& instance, const KnownModels& models, int64_t window_length,
                  int64_t targets_tokens = 0, const fs::path& out = {});

}  // namespace overproof
