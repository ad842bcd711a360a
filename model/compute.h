#pragma once
// The option for the number type in which a stage multiplies matrices. No libtorch header here: configurations include it.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "core/json_fwd.h"
#include "core/stage.h"

namespace overproof {

enum class Compute { automatic, f32, bf16 };

/// The key of a stage's metrics under which the chosen type is recorded, "f32" or "bf16".
inline constexpr const char* kComputeMetric = "compute";

/// One definition for all stages that have the option.
template <class V>
void visit_compute(V&& v, Compute& compute) {
  v("compute", compute, enum_of<Compute>({{"auto", Compute::automatic}, {"f32", Compute::f32}, {"bf16", Compute::bf16}}),
    "number type of matrix products; auto: bf16 where the processor has it and multiplies it faster, for models at least 256 wide, else "
    "f32. Weights, sums, norms, softmax and losses are f32 either way; what was chosen is recorded");
}

/// What was chosen for this run.
struct ComputeChoice {
  Compute type = Compute::f32;
  double gain = 0;  ///< measured rate of bf16 products over that of f32 products; 0: not measured

  std::string name() const { return type == Compute::bf16 ? "bf16" : "f32"; }
  /// A line for people.
  std::string summary() const;
};

/// Chooses for a model of this hidden size and sets the type for all products of the process, until the next prepare_torch(). auto
/// measures, but only where the processor has AVX512_BF16 (as every processor with AMX for bf16 does): elsewhere bf16 is emulated
/// and tens to hundreds of times slower. Throws MismatchError when bf16 is asked for and the processor lacks it.
ComputeChoice use_compute(Compute wanted, int64_t hidden_size);
/// The same for a stage that resumes: what auto chose is kept in the scratch folder, so that a run that was killed resumes in the
/// same type, whatever is measured then.
ComputeChoice use_compute(Compute wanted, int64_t hidden_size, const Outputs& outputs);

/// The type that an artifact's metrics record; f32 for those of programs that knew no other. Throws FormatError, naming `where`.
Compute recorded_compute(const Json& metrics, const std::string& where);

}  // namespace overproof
