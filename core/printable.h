#pragma once
// File names and parsers' messages may hold any bytes; a terminal and a page must not get them raw.

#include <string>
#include <string_view>

#include "core/json.h"

namespace overproof {

/// The text as UTF-8 without control characters but tab and newline; what is neither becomes U+FFFD.
inline std::string printable(std::string_view text) {
  // JSON's writer is the one place that already knows how to mend UTF-8.
  const std::string mended =
      Json::parse(Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
  std::string out;
  for (const char c : mended) {
    const auto code = static_cast<unsigned char>(c);
    if ((code < 0x20 && c != '\n' && c != '\t') || code == 0x7f) out += "\xef\xbf\xbd";
    else out += c;
  }
  return out;
}

}  // namespace overproof
