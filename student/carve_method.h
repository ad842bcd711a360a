#pragma once
// The ways to carve that `carve --method` offers; student/carve_methods.h has what they do.

#include <string_view>

namespace overproof {

enum class CarveMethod { clusters, random, order, cmoe, expertweaver };
std::string_view method_name(CarveMethod method);
/// Whether the method comes with a router.
inline bool has_own_router(CarveMethod method) { return method == CarveMethod::cmoe || method == CarveMethod::expertweaver; }

}  // namespace overproof
