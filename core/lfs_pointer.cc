#include "core/lfs_pointer.h"

#include <utility>

#include "core/error.h"

namespace overproof {

bool is_lfs_pointer(std::string_view content) { return content.starts_with("version https://git-lfs.github.com/spec/"); }

void refuse_lfs_pointer(std::string_view content, const std::filesystem::path& file) {
  if (is_lfs_pointer(content))
    throw FormatError(file, 0, "is a Git LFS pointer, not the file itself; fetch the file with 'git lfs pull', or download it again");
  if (content.starts_with("<!DOCTYPE") || content.starts_with("<!doctype") || content.starts_with("<html"))
    throw FormatError(file, 0, "is a web page, not the file itself; look at it in a browser for the reason, and download the file again");
}

std::string_view kind_of_container(std::string_view content) {
  using namespace std::string_view_literals;
  static constexpr std::pair<std::string_view, std::string_view> kBeginnings[] = {
      {"PAR1"sv, "a Parquet file"},
      {"ARROW1"sv, "an Arrow file"},
      {"\x1f\x8b"sv, "compressed by gzip"},
      {"\x28\xb5\x2f\xfd"sv, "compressed by zstd"},
      {"\xfd"
       "7zXZ\0"sv,
       "compressed by xz"},
      {"BZh"sv, "compressed by bzip2"},
      {"PK\3\4"sv, "a ZIP archive, as DOCX, ODT and EPUB files are"},
      {"%PDF-"sv, "a PDF file"},
      {"{\\rtf"sv, "an RTF file"},
      {"SQLite format 3\0"sv, "an SQLite database"},
      {"\xd0\xcf\x11\xe0"sv, "a file of an old Microsoft Office"},
  };
  for (const auto& [beginning, kind] : kBeginnings)
    if (content.starts_with(beginning)) return kind;
  return {};
}

}  // namespace overproof
