#include "records/document_spool.h"

#include <algorithm>

#include "core/error.h"

namespace overproof {
namespace {

constexpr char kFile[] = "drawn.jsonl";

}  // namespace

std::optional<std::vector<std::vector<int32_t>>> parse_drawn_documents(std::string_view text, int64_t vocabulary) {
  std::vector<std::vector<int32_t>> documents;
  try {
    for (size_t at = 0; at < text.size();) {
      const size_t end = text.find('\n', at);
      if (end == std::string_view::npos) return std::nullopt;
      const Json ids = parse_json(text.substr(at, end - at), kFile, int64_t(at));
      if (!ids.is_array()) return std::nullopt;
      std::vector<int32_t>& document = documents.emplace_back();
      for (const Json& id : ids) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() >= uint64_t(vocabulary)) return std::nullopt;
        document.push_back(int32_t(id.get<uint64_t>()));
      }
      at = end + 1;
    }
  } catch (const FormatError&) {
    return std::nullopt;
  }
  return documents;
}

DocumentSpool::DocumentSpool(const fs::path& scratch, const Digest& stage_key, int64_t count, int64_t vocabulary)
    : resume_(scratch, stage_key), folder_(scratch, Unfinished::kept) {
  OVERPROOF_CHECK(vocabulary > 0 && vocabulary <= INT32_MAX);
  fs::create_directories(scratch);
  if (const auto point = resume_.read(&folder_); point && point->files.size() == 1 && point->files[0].name == kFile) {
    const MappedFile file(scratch / kFile);
    const auto bytes = file.bytes().first(size_t(std::min(file.size(), point->files[0].bytes)));
    auto drawn = parse_drawn_documents({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, vocabulary);
    if (drawn && int64_t(drawn->size()) <= count && point->progress == Json{{"documents", drawn->size()}}) documents_ = std::move(*drawn);
  }
  if (documents_.empty()) {
    resume_.clear();
    folder_ = OutputFolder(scratch, Unfinished::kept);
  }
  file_.emplace(folder_.open(kFile));
  file_->skip(file_->kept_bytes_left());
}

void DocumentSpool::append(std::vector<int32_t> ids) {
  file_->write(Json(ids).dump() + "\n");
  documents_.push_back(std::move(ids));
}

void DocumentSpool::save() { resume_.write({{file_->sync()}, {{"documents", documents_.size()}}}); }

}  // namespace overproof
