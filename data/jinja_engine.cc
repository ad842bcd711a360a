#include "data/jinja_engine.h"

#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>
#include <json.h>

#include <regex>
#include <stdexcept>

namespace overproof {
namespace {

// Put where a `{% generation %}` block begins and ends, and taken out again. It counts only where the template wrote it.
constexpr std::string_view kBegins = "\x01generation\x02", kEnds = "\x01endgeneration\x02";

/// `{%- generation %}` becomes `{%- if true %}MARK{% endif %}`: the white space on both sides is treated as before.
std::string with_marks(std::string_view source) {
  static const std::regex block(R"(\{%([-+]?)\s*(end)?generation\s*([-+]?)%\})");
  std::string out;
  auto at = source.begin();
  for (std::regex_iterator<std::string_view::const_iterator> it(source.begin(), source.end(), block), end; it != end; ++it) {
    const auto& match = *it;
    out.append(at, match[0].first);
    out += "{%" + match[1].str() + " if true %}";
    out += match[2].matched ? kEnds : kBegins;
    out += "{% endif " + match[3].str() + "%}";
    at = match[0].second;
  }
  out.append(at, source.end());
  return out;
}

void add_range(std::vector<ByteRange>& ranges, int64_t begin, int64_t end) {
  if (begin == end) return;
  if (!ranges.empty() && ranges.back().end == begin) ranges.back().end = end;
  else ranges.push_back({begin, end});
}

/// Appends a part that the template wrote, without the marks in it.
void append_marked(std::string_view part, RenderedChat& out, int64_t& generation) {
  while (!part.empty()) {
    const size_t begins = part.find(kBegins), ends = part.find(kEnds), mark = std::min(begins, ends);
    out.text += part.substr(0, mark);
    if (mark == part.npos) return;
    const bool opens = mark == begins;
    if (opens == (generation >= 0)) throw std::runtime_error("its {% generation %} blocks are nested or not closed");
    if (!opens) add_range(out.generated, generation, int64_t(out.text.size()));
    generation = opens ? int64_t(out.text.size()) : -1;
    part.remove_prefix(mark + (opens ? kBegins : kEnds).size());
  }
}

/// Roles are a fixed set of words that markers are made of ('<|' + role + '|>'): they are not quoted.
void unquote_roles(jinja::context& context) {
  jinja::value messages = context.get_val("messages");
  if (!jinja::is_val<jinja::value_array>(messages)) return;
  for (const jinja::value& message : messages->as_array())
    if (jinja::is_val<jinja::value_object>(message))
      for (const auto& [key, value] : message->as_ordered_object())
        if (key->as_string().str() == "role")
          for (auto& part : value->val_str.parts) part.is_input = false;
}

RenderedChat render(const jinja::program& program, const std::string& source, const common_json& variables, bool marks) {
  jinja::context context(source);
  // As transformers passes them where a conversation has none: defined, and none.
  const common_json environment = {{"bos_token", ""}, {"eos_token", ""}, {"tools", nullptr}, {"documents", nullptr}};
  jinja::global_from_json(context, environment, false);
  for (const auto& [name, value] : variables.items()) {
    const bool quoted = name == "messages" || name == "tools" || name == "documents";
    jinja::global_from_json(context, common_json{{name, value}}, quoted);
  }
  unquote_roles(context);
  const jinja::value results = jinja::runtime(context).execute(program);
  const auto parts = jinja::runtime::gather_string_parts(results);
  RenderedChat out;
  int64_t generation = -1;
  for (const auto& part : parts->as_string().parts) {
    if (part.is_input) {
      add_range(out.quoted, int64_t(out.text.size()), int64_t(out.text.size() + part.val.size()));
      out.text += part.val;
    } else if (marks) {
      append_marked(part.val, out, generation);
    } else {
      out.text += part.val;
    }
  }
  if (generation >= 0) throw std::runtime_error("a {% generation %} block is not closed");
  return out;
}

}  // namespace

RenderedPrefixes render_jinja(std::string_view source, std::string_view variables, const ChatPrefix& whole, const std::vector<ChatPrefix>& prefixes) {
  const std::string text = with_marks(source);
  const bool marks = text.size() != source.size();
  const auto lexed = jinja::lexer().tokenize(text);
  const jinja::program program = jinja::parse_from_tokens(lexed);
  common_json all = common_json::parse(variables);
  const common_json messages = all.at("messages");
  const auto render_prefix = [&](const ChatPrefix& prefix) {
    common_json first = common_json::array();
    for (int64_t i = 0; i < prefix.messages; ++i) first.push_back(messages.at(size_t(i)));
    all["messages"] = std::move(first);
    all["add_generation_prompt"] = prefix.add_generation_prompt;
    return render(program, text, all, marks);
  };
  RenderedPrefixes rendered{marks, render_prefix(whole), {}};
  if (marks) return rendered;
  for (const ChatPrefix& prefix : prefixes) {
    const std::string part = render_prefix(prefix).text;
    rendered.lengths.push_back(rendered.whole.text.starts_with(part) ? int64_t(part.size()) : -1);
  }
  return rendered;
}

}  // namespace overproof
