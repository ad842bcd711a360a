#pragma once
// The number type of the weights that a stage writes: that of its parent, unless the user asks for another one.
//
// A config struct has a member `WeightDType dtype` and calls visit_weight_dtype() in its visit(); the stage passes it with its parent
// to written_dtype(), and records the answer by record_dtype(). Routers and their biases are F32 whatever the answer is: in 16 bits
// they would choose other experts.

#include <span>
#include <string_view>

#include "core/config.h"
#include "core/json_fwd.h"
#include "formats/tensor_source.h"

namespace overproof {

enum class WeightDType { automatic, bf16, f16, f32 };

/// The option that every stage shares that writes 16- or 32-bit weights.
template <class V>
void visit_weight_dtype(V&& v, WeightDType& dtype) {
  v("dtype", dtype,
    enum_of<WeightDType>(
        {{"auto", WeightDType::automatic}, {"bf16", WeightDType::bf16}, {"f16", WeightDType::f16}, {"f32", WeightDType::f32}}),
    "type of the weights that are written; auto: the parent's, and bf16 where that has 8 bits or fewer; routers stay f32");
}

/// The type of most of the elements in the checkpoint's matrices: BF16, F16 or F32. BF16 when they are stored in 8 bits or fewer
/// (quantized GGUF, int8, fp8), whatever type they are read as.
DType weight_dtype(const Checkpoint& checkpoint);

/// The type in which a stage writes weights made from `parent`: BF16, F16 or F32.
DType written_dtype(WeightDType asked, const Checkpoint& parent);

/// As a stage's metric "dtype" has it: "BF16".
void record_dtype(Json& metrics, DType dtype);

/// Throws DivergenceError naming `tensor` when a value is not finite or becomes infinite in `dtype` (formats/finite_values.h).
void require_range(DType dtype, std::span<const float> values, std::string_view tensor);

/// True for the weights that are F32 in every checkpoint of ours: routers and the biases of their choice.
bool is_always_f32(std::string_view tensor);

}  // namespace overproof
