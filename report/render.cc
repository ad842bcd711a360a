#include "report/render.h"

#include <functional>

#include "core/error.h"
#include "core/markdown.h"
#include "provenance/dsse.h"
#include "report/pages.h"

namespace overproof {
namespace {

namespace mustache = kainjow::mustache;

/// The engine parses a partial again at each use, and a large report has 10^5 cells: the partials that are used in cells become
/// part of the template.
std::string with_partials(std::string page, const std::string& words) {
  static const std::string kUse = "{{>words}}";
  for (size_t at = 0; (at = page.find(kUse, at)) != std::string::npos; at += words.size()) page.replace(at, kUse.size(), words);
  return page;
}

std::string render(const char* page, const char* words, const View& view, std::string (*escape)(const std::string&)) {
  std::string trimmed = words;
  while (trimmed.ends_with('\n')) trimmed.pop_back();
  mustache::mustache engine(with_partials(page, trimmed));
  engine.set_custom_escape(escape);
  std::string text = engine.render(view);
  OVERPROOF_CHECK(engine.is_valid());
  return text;
}

}  // namespace

std::string shown(std::string_view text) {
  constexpr size_t kMostShown = 2000;
  std::string out = one_line(text.substr(0, 4 * kMostShown));
  if (out.size() <= kMostShown) return out;
  size_t end = kMostShown;
  while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xc0) == 0x80) --end;
  return out.substr(0, end) + "…";
}

std::string report_html(const Report& report) {
  View view = view_of(report);
  const Digest digest = sha256(std::string_view(kPageStyle));
  view.set("style", kPageStyle);
  view.set("style_digest", base64_encode({reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()}));
  return render(kPageHtml, kWordsHtml, view, [](const std::string& text) { return mustache::html_escape(shown(text)); });
}

std::string report_markdown(const Report& report) {
  View view = view_of(report);
  // A code span is fenced according to its content, which no template can do.
  view.set("code_span", mustache::lambda2([](const std::string& text, const mustache::renderer& render) {
             return markdown_code(shown(render(text, false)));
           }));
  return render(kPageMarkdown, kWordsMarkdown, view, [](const std::string& text) { return escape_markdown(shown(text)); });
}

}  // namespace overproof
