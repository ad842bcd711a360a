#include "core/markdown.h"

#include <algorithm>

#include "core/printable.h"

namespace overproof {

std::string one_line(std::string_view text) {
  std::string line = printable_lines(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
  return line;
}

std::string escape_markdown(std::string_view raw) {
  const std::string text = one_line(raw);
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const std::string_view rest = std::string_view(text).substr(i);
    const bool markup = std::string_view("\\`*_[]|~$!#").find(c) != std::string_view::npos;
    const bool begins_line = i == 0 && std::string_view("+-=:").find(c) != std::string_view::npos;
    const bool begins_item = i > 0 && i == digits && (c == '.' || c == ')') && (rest.size() == 1 || rest[1] == ' ');
    const bool begins_link = rest.starts_with("://") ||
                             (c == '.' && i >= 3 && (text.compare(i - 3, 3, "www") == 0 || text.compare(i - 3, 3, "WWW") == 0));
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '@') out += "`@`";  // GitHub's renderer also finds addresses whose @ is escaped or a character reference
    else if (markup || begins_line || begins_item || begins_link) out += std::string("\\") + c;
    else out += c;
  }
  return out;
}

std::string markdown_code(std::string_view raw) {
  std::string text;
  size_t run = 0, longest = 0;
  for (const char c : one_line(raw)) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
    if (c == '|') text += '\\';  // a table's cell ends at a bar even in a code span
    text += c;
  }
  const std::string fence(longest + 1, '`');
  const bool pad = !text.empty() && (text.front() == '`' || text.back() == '`');
  return text.empty() ? "" : fence + (pad ? " " : "") + text + (pad ? " " : "") + fence;
}

}  // namespace overproof
