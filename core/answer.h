#pragma once
// What a verb returns. cli/ prints it, and is the only folder that prints.

#include <string>

#include "core/json.h"

namespace overproof {

struct Answer {
  Json json;          ///< printed on one line with --json; a JSON array is printed one element a line
  std::string text;   ///< printed without --json, as it is: it ends with a newline unless it is empty
  int exit_code = 0;  ///< 0, or that of the finding: 4 where an audit found something that does not hold
};

}  // namespace overproof
