#include "core/json.h"

#include <set>

#include "core/error.h"
#include "core/file.h"

namespace overproof {

Json parse_json(std::string_view text, const std::filesystem::path& file, int64_t base_offset) {
  // A duplicate key means that two readers may see two different documents, so it is refused, not resolved.
  std::vector<std::set<std::string>> open_objects;
  std::string duplicate;
  const auto callback = [&](int, Json::parse_event_t event, Json& value) {
    switch (event) {
      case Json::parse_event_t::object_start:
        open_objects.emplace_back();
        break;
      case Json::parse_event_t::object_end:
        open_objects.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!open_objects.back().insert(value.get<std::string>()).second && duplicate.empty())
          duplicate = value.get<std::string>();
        break;
      default:
        break;
    }
    return true;
  };
  // nlohmann's parser keeps its own stack, but destroying a value recurses: bound the depth before parsing.
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > 256) throw FormatError(file, base_offset + int64_t(i), "JSON is nested more than 256 deep");
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  try {
    Json value = Json::parse(text, callback);
    if (!duplicate.empty()) throw FormatError(file, base_offset, "JSON object has the key '" + duplicate + "' twice");
    return value;
  } catch (const Json::parse_error& e) {
    throw FormatError(file, base_offset + int64_t(e.byte), std::string("not valid JSON: ") + e.what());
  } catch (const Json::out_of_range& e) {  // a number that no double holds
    throw FormatError(file, base_offset, std::string("not valid JSON: ") + e.what());
  }
}

Json read_json(const std::filesystem::path& file, int64_t max_bytes) { return parse_json(read_file(file, max_bytes), file); }

}  // namespace overproof
