#pragma once
// The model types that carved students are written as, and what each can express of a teacher.
//
//                    glm4_moe                                 qwen2_moe
//   expert weights   2 sigmoid(z)                             softmax of the chosen experts' z; they sum to 1
//   shared experts   one FFN, always active                   one FFN, times a sigmoid gate
//   selection        sigmoid(z) + bias                        z
//   Llama-3 RoPE     not in llama.cpp                         transformers and vLLM as glm4_moe's; llama.cpp: as granitemoe
//
// A zero gate gives glm4_moe's experts the weight 1, so the teacher's weights are the student's. qwen2_moe's experts then have the weight
// 1 / top-k and its shared expert 1 / 2: their output projections are the teacher's times top-k and 2.
// Sources: transformers 5.23, models/{glm4_moe,qwen2_moe}/modeling_*.py; what llama.cpp loads: tests/interop/test_gguf.py.

#include <cstdint>
#include <string>

#include "core/config.h"
#include "formats/model_config.h"

namespace overproof {

enum class StudentProfile { automatic, glm4_moe, qwen2_moe };

template <class V>
void visit_profile(V&& v, StudentProfile& profile) {
  v("profile", profile,
    enum_of<StudentProfile>(
        {{"auto", StudentProfile::automatic}, {"glm4_moe", StudentProfile::glm4_moe}, {"qwen2_moe", StudentProfile::qwen2_moe}}),
    "model type of the student. auto: glm4_moe where it expresses the teacher, else qwen2_moe, which has Llama-3 RoPE scaling, but "
    "no selection bias");
}

/// Why the experts of `profile` cannot be carved from a dense model of this shape; "" where they can. Does not look at what
/// ModelConfig::why_not_carved() refuses for both.
std::string why_not_in_profile(const ModelConfig& dense, StudentProfile profile);

/// Why it cannot be upcycled; "" where it can. Copies of an FFN are written as glm4_moe only: qwen2_moe has always a shared expert.
std::string why_not_upcycled(const ModelConfig& dense);

/// `automatic` resolved. Throws MismatchError where `dense` cannot be carved, or not as the profile that was asked for.
StudentProfile resolve_profile(const ModelConfig& dense, StudentProfile asked);

/// The shape of a student carved from `dense`: (experts + shared) divides its FFN width. `profile` is resolved. Throws UsageError where the
/// profile has no such mixture.
ModelConfig carved_shape(const ModelConfig& dense, StudentProfile profile, int64_t experts, int64_t shared, int64_t top_k);

/// What the teacher's output projections are multiplied by in a carved student.
struct FoldedFactors {
  double routed = 1.0, shared = 1.0;
};
FoldedFactors folded_factors(const ModelConfig& student);

}  // namespace overproof
