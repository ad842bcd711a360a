#pragma once
// The functions of stages and verbs that need libtorch, bound at run time: every build lists these stages and verbs with their
// options, but only `overproof-torch` links their code.
//
//   .make = stage_maker<TeachConfig>(torch_function<decltype(run_teach)>)    where a stage or verb is listed
//   bind_function(run_teach);                                               in torch_functions_torch.cc
//
// A function is identified by its type, which its config struct makes unique.

#include <utility>

#include "core/error.h"
#include "pipeline/needs.h"

namespace overproof {

template <class Signature>
struct TorchFunction;

template <class Result, class... Arguments>
struct TorchFunction<Result(Arguments...)> {
  static inline Result (*bound)(Arguments...) = nullptr;
  static Result call(Arguments... arguments) {
    OVERPROOF_CHECK(bound != nullptr);  // ensure_program_has() is called before
    return bound(std::forward<Arguments>(arguments)...);
  }
};

template <class Signature>
inline constexpr auto torch_function = TorchFunction<Signature>::call;

/// Makes all of them callable in this program. Defined in torch_functions_torch.cc, which links libtorch: only programs that call
/// this do.
void bind_torch_functions();

}  // namespace overproof
