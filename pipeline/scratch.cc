#include "pipeline/scratch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "core/error.h"
#include "core/json.h"
#include "core/printable.h"
#include "pipeline/file_lock.h"

namespace overproof {
namespace {

/// "NAME" of ".NAME.partial", ".NAME.lock" and ".NAME.scratch-<16 hex digits>"; nothing for other names.
std::optional<ScratchItem> item_of(const fs::path& path) {
  const std::string file = path.filename().string();
  if (!file.starts_with('.')) return std::nullopt;
  ScratchItem item{path, {}};
  const auto named = [&](std::string_view end, size_t length) {
    if (file.size() <= 1 + length || end.empty()) return false;
    item.artifact = file.substr(1, file.size() - 1 - length);
    return !item.artifact.empty();
  };
  constexpr std::string_view kScratch = ".scratch-";
  constexpr size_t kKey = 16;
  if (const size_t at = file.rfind(kScratch); at != std::string::npos && file.size() == at + kScratch.size() + kKey &&
                                              file.find_first_not_of("0123456789abcdef", at + kScratch.size()) == std::string::npos) {
    item.resumable = true;
    return named(kScratch, kScratch.size() + kKey) ? std::optional(item) : std::nullopt;
  }
  for (const std::string_view end : {".partial", ".lock"})
    if (file.ends_with(end)) return named(end, end.size()) ? std::optional(item) : std::nullopt;
  return std::nullopt;
}

int64_t bytes_in(const fs::path& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return int64_t(fs::file_size(path, error));
  int64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path, error))
    if (entry.is_regular_file(error)) bytes += int64_t(entry.file_size(error));
  return bytes;
}

/// Removes the items of one artifact unless a process holds its lock; returns whether it did.
bool clear(const fs::path& run, const std::string& artifact, const std::vector<ScratchItem>& items) {
  try {
    const fs::path lock_file = run / ("." + artifact + ".lock");
    const FileLock lock(lock_file, FileLock::Busy::fails, run / artifact, "in use");
    for (const ScratchItem& item : items)
      if (item.artifact == artifact && item.path != lock_file) fs::remove_all(item.path);
    return true;
  } catch (const IoError&) {
    return false;
  }
}

}  // namespace

std::vector<ScratchItem> scratch_items(const fs::path& folder) {
  std::vector<ScratchItem> items;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    auto item = item_of(entry.path());
    if (!item) continue;
    item->bytes = bytes_in(entry.path());
    items.push_back(std::move(*item));
  }
  std::ranges::sort(items, {}, &ScratchItem::path);
  return items;
}

Answer run_scratch(const ScratchConfig& config, const fs::path& run) {
  if (!fs::is_directory(run)) throw IoError(run, "is no run folder", ENOENT);
  const std::vector<ScratchItem> items = scratch_items(run);
  Answer answer;
  Json list = Json::array();
  int64_t bytes = 0;
  std::string cleared_for, busy_for;
  for (const ScratchItem& item : items) {
    bool removed = false;
    if (config.clear) {
      if (item.artifact != cleared_for && item.artifact != busy_for)
        (clear(run, item.artifact, items) ? cleared_for : busy_for) = item.artifact;
      removed = item.artifact == cleared_for;
    }
    const std::string name = item.path.filename().string();
    const char* what = removed ? "removed" : config.clear ? "in use, kept" : item.resumable ? "can be resumed" : "left over";
    list.push_back({{"name", name}, {"artifact", item.artifact}, {"bytes", item.bytes}, {"resumable", item.resumable}, {"removed", removed}});
    answer.text += fmt::format("{:>10.1f} MB  {} ({})\n", double(item.bytes) * 1e-6, printable(name), what);
    bytes += item.bytes;
  }
  answer.text += items.empty() ? std::string("nothing is left over\n")
                               : fmt::format("{} items, {:.1f} MB{}\n", items.size(), double(bytes) * 1e-6,
                                             config.clear ? "" : "; --clear removes them");
  answer.json = {{"items", list}, {"bytes", bytes}};
  return answer;
}

}  // namespace overproof
