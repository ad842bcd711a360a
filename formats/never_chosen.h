#pragma once

namespace overproof {

/// The router's bias of a place without an expert: added to a score in (0, 1) it is never selected. Finite, because loaders mask with minus
/// infinity and could select from a tie with that.
inline constexpr float kNeverChosen = -1e9f;

}  // namespace overproof
