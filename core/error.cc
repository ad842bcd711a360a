#include "core/error.h"

#include <fmt/format.h>

#include <cstring>

#include "core/printable.h"

namespace overproof {

FormatError::FormatError(const std::filesystem::path& file, int64_t offset, std::string_view cause)
    : Error(printable(offset < 0 ? fmt::format("{}: {}", file.string(), cause)
                                 : fmt::format("{}: byte {}: {}", file.string(), offset, cause))),  // may quote a hostile file
      offset_(offset) {}

IoError::IoError(const std::filesystem::path& file, std::string_view action, int error_number)
    : Error(error_number == 0 ? fmt::format("{}: {}", file.string(), action)
                              : fmt::format("{}: {}: {}", file.string(), action, std::strerror(error_number))) {}

void check_failed(const char* condition, const char* file, int line) {
  throw std::logic_error(fmt::format("internal error: {} does not hold at {}:{}; please report this", condition, file, line));
}

}  // namespace overproof
