#include "core/real_path.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <cstdio>
#include <memory>

#include "core/error.h"

namespace overproof {
namespace {

/// Linux gives up at 40 links, too.
constexpr int kMostLinks = 40;

fs::path without_slash(const fs::path& path) { return path.has_filename() || !path.has_relative_path() ? path : path.parent_path(); }

}  // namespace

fs::path real_path(const fs::path& path) {
  std::error_code error;
  fs::path at = without_slash(fs::absolute(path));
  for (int links = 0; fs::is_symlink(fs::symlink_status(at, error)) && !fs::exists(at, error); ++links) {
    const fs::path target = fs::read_symlink(at, error);
    if (error || links == kMostLinks) throw IoError(path, "cannot follow this link", error ? error.value() : ELOOP);
    at = without_slash(at.parent_path() / target);
  }
  const fs::path real = fs::weakly_canonical(at, error);
  if (error) throw IoError(path, "cannot resolve this path", error.value());
  return without_slash(real);
}

fs::path input_path(const fs::path& path) {
  std::error_code error;
  const fs::path plain = without_slash(path);
  return fs::is_symlink(fs::symlink_status(plain, error)) && fs::is_directory(plain, error) ? real_path(plain) : plain;
}

bool lies_within(const fs::path& inner, const fs::path& outer) {
  const fs::path relative = real_path(inner).lexically_relative(real_path(outer));
  return !relative.empty() && *relative.begin() != "..";
}

void require_apart(const fs::path& out, const std::vector<std::pair<std::string, fs::path>>& inputs, bool whole) {
  for (const auto& [name, input] : inputs) {
    if (input.empty()) continue;
    std::error_code error;
    if (real_path(out) == real_path(input) || fs::equivalent(out, input, error))
      throw UsageError(fmt::format("{}: is the input '{}', so it cannot be the output", out.string(), name));
    if (fs::is_directory(input, error) && lies_within(out, input))
      throw UsageError(fmt::format("{}: lies in the input '{}' ({}), which must not change; name a place outside of it", out.string(),
                                   name, input.string()));
    if (whole && lies_within(input, out))
      throw UsageError(fmt::format("{}: holds the input '{}' ({}), so it cannot be the output", out.string(), name, input.string()));
  }
}

bool begins_with(const fs::path& file, std::string_view magic) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "rb"), std::fclose);
  std::string begin(magic.size(), '\0');
  return stream && std::fread(begin.data(), 1, begin.size(), stream.get()) == begin.size() && begin == magic;
}

void require_room(const fs::path& folder, int64_t bytes) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0 || info.f_blocks == 0) return;  // a file system that does not report it
  const auto free = int64_t(info.f_bavail) * int64_t(info.f_frsize);
  if (free < bytes)
    throw IoError(folder, fmt::format("the disk is full: {:.1f} MB are needed here and {:.1f} MB are free; free some room and run the "
                                      "same command again",
                                      double(bytes) * 1e-6, double(free) * 1e-6),
                  0);
}

}  // namespace overproof
