#include "core/json.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/lfs_pointer.h"

namespace overproof {
namespace {

constexpr size_t kMostLevels = 256;  // destroying a value recurses once a level

/// Builds the value from the parser's events. nlohmann's own builder with a callback searches the parent for discarded
/// elements after each object, which takes quadratic time in the number of objects of a list.
class Builder {
 public:
  /// `next`: where the parser reads next, for the offsets of our own refusals.
  Builder(const char* begin, const char* const* next, const fs::path& file, int64_t base_offset)
      : begin_(begin), next_(next), file_(file), base_offset_(base_offset) {}

  Json take() { return std::move(root_); }

  // The interface nlohmann::json_sax<Json>; true: continue parsing.
  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add(value); }
  bool number_unsigned(uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t& value) { return add(std::move(value)); }  // never called: JSON text has none
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    // A duplicate key means that two readers may see two different documents, so it is refused, not resolved.
    const auto [member, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(std::move(name));
    if (!is_new) fail(fmt::format("JSON object has the key '{}' twice", member->first.substr(0, 200)));
    member_ = &member->second;
    return true;
  }
  /// `position` counts the bytes read, the refused one included.
  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    const std::string_view message = error.what();  // "[json.exception.parse_error.101] parse error at ..."
    const size_t mark = message.find("] ");
    fail_at(int64_t(position) - 1, fmt::format("not valid JSON: {}", mark == message.npos ? message : message.substr(mark + 2)));
  }

 private:
  [[noreturn]] void fail_at(int64_t offset, const std::string& cause) const {
    throw FormatError(file_, base_offset_ + std::max<int64_t>(0, offset), cause);
  }
  [[noreturn]] void fail(const std::string& cause) const { fail_at(*next_ - begin_ - 1, cause); }

  Json* put(Json&& value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array()) return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    return &(*member_ = std::move(value));
  }
  bool add(Json&& value) {
    put(std::move(value));
    return true;
  }
  bool open(Json&& value) {
    if (open_.size() == kMostLevels) fail(fmt::format("JSON is nested more than {} deep", kMostLevels));
    open_.push_back(put(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const char* const begin_;
  const char* const* const next_;
  const fs::path& file_;
  const int64_t base_offset_;
  Json root_;
  std::vector<Json*> open_;  // from the root down; an open list grows only at its end, after its last element is closed
  Json* member_ = nullptr;   // of the innermost open object: the value to come
};

/// An input iterator that keeps its position outside of itself: the parser works on copies.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char** at;  // null: the end
  const char* end;

  reference operator*() const { return **at; }
  Cursor& operator++() {
    ++*at;
    return *this;
  }
  bool operator==(const Cursor& other) const { return done() == other.done(); }
  bool operator!=(const Cursor& other) const { return done() != other.done(); }
  bool done() const { return !at || *at == end; }
};

}  // namespace

Json parse_json(std::string_view text, const fs::path& file, int64_t base_offset) {
  refuse_lfs_pointer(text, file);
  // nlohmann's lexer takes a NUL byte for the end of the text, so what follows it would be accepted unread.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    throw FormatError(file, base_offset + int64_t(nul), "not valid JSON: a NUL byte");
  const char* next = text.data();
  const char* const end = text.data() + text.size();
  Builder builder(text.data(), &next, file, base_offset);
  Json::sax_parse(Cursor{&next, end}, Cursor{nullptr, end}, &builder);
  return builder.take();
}

Json read_json(const fs::path& file, int64_t max_bytes) { return parse_json(read_file(file, max_bytes), file); }

std::string dump_text(const Json& value, int indent) { return value.dump(indent, ' ', false, Json::error_handler_t::replace); }

}  // namespace overproof
