#pragma once
// How fast one sequence is written on this machine.

#include <cstdint>
#include <span>

#include "model/generator.h"

namespace overproof {

/// Tokens a second of one sequence, token by token, after `prompt`: what a user of `generate` sees on this machine.
double decode_speed(const Generator& model, std::span<const int32_t> prompt);

}  // namespace overproof
