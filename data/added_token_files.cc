#include "data/added_token_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "core/error.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "formats/companion_files.h"

namespace overproof {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kMostTokenId = 1 << 24;

std::optional<Json> read_if_there(const fs::path& file) {
  if (!fs::exists(file)) return std::nullopt;
  return read_python_json(file);
}

/// "text", or an object with "content" and flags.
AddedToken read_token(const JsonObject& in, const Json& value, std::string_view name, bool special) {
  AddedToken token{.special = special};
  if (value.is_string()) {
    token.text = value.get<std::string>();
    return token;
  }
  if (!value.is_object()) in.fail(name, "is no token");
  const JsonObject object(value, in.origin(), std::string(name), JsonNull::absent);
  token.text = object.text("content");
  token.special = object.flag("special", special);
  token.lstrip = object.flag("lstrip", false);
  token.rstrip = object.flag("rstrip", false);
  token.normalized = object.flag("normalized", !token.special);
  token.single_word = object.flag("single_word", false);
  return token;
}

void set_named(AddedTokenFiles& out, const std::string& name, std::optional<AddedToken> token, const fs::path& file) {
  const auto it = std::ranges::find(out.named, name, &AddedTokenFiles::Named::name);
  if (it == out.named.end()) out.named.push_back({name, std::move(token), file});
  else *it = {name, std::move(token), file};
}

void read_named(const JsonObject& in, bool null_counts, AddedTokenFiles& out) {
  for (const char* name : kNamedTokens) {
    const auto it = in.json().find(name);
    if (it == in.json().end()) continue;
    if (!it->is_null()) set_named(out, name, read_token(in, *it, name, true), in.origin());
    else if (null_counts) set_named(out, name, std::nullopt, in.origin());
  }
  for (const auto& [name, value] : in.json().items())  // a model's own, such as image_token
    if (name.ends_with("_token") && value.is_string() && std::ranges::find(kNamedTokens, std::string_view(name)) == std::end(kNamedTokens))
      set_named(out, name, read_token(in, value, name, true), in.origin());
}

/// A list of tokens, or an object with tokens by name. Whether it has any.
bool read_extra(const JsonObject& in, const char* name, AddedTokenFiles& out) {
  const Json* list = in.find(name);
  if (!list || list->empty()) return false;
  if (!list->is_array() && !list->is_object()) in.fail(name, "is no list of tokens");
  for (const Json& value : *list) out.extra.push_back(read_token(in, value, name, true));
  out.extra_in = in.origin();
  return true;
}

void read_listed(const JsonObject& decoder, AddedTokenFiles& out) {
  for (const auto& [number, value] : decoder.json().items()) {
    if (number.empty() || number.size() > 8 || number.find_first_not_of("0123456789") != std::string::npos || std::stoll(number) > kMostTokenId)
      decoder.fail(fmt::format("has '{}', which is no token id", number.substr(0, 100)));
    if (!value.is_object()) decoder.fail(number, "is no token");
    out.listed[std::stoi(number)] = read_token(decoder, value, number, false);
  }
}

}  // namespace

const AddedTokenFiles::Named* AddedTokenFiles::find(std::string_view name) const {
  const auto it = std::ranges::find(named, name, &Named::name);
  return it == named.end() ? nullptr : &*it;
}

AddedTokenFiles read_added_token_files(const fs::path& folder) {
  AddedTokenFiles out;
  const fs::path config_file = folder / "tokenizer_config.json", map_file = folder / "special_tokens_map.json", added_file = folder / "added_tokens.json";
  if (const std::optional<Json> json = read_if_there(config_file)) {
    const JsonObject config(*json, config_file, "", JsonNull::absent);
    read_named(config, false, out);
    if (!read_extra(config, "extra_special_tokens", out)) read_extra(config, "additional_special_tokens", out);
    out.has_decoder = config.has("added_tokens_decoder");
    if (out.has_decoder) read_listed(config.object("added_tokens_decoder"), out);
    out.listed_in = config_file;
  }
  if (out.has_decoder) return out;
  if (const std::optional<Json> json = read_if_there(map_file)) {
    const JsonObject map(*json, map_file, "", JsonNull::absent);
    read_named(map, true, out);
    if (!read_extra(map, "extra_special_tokens", out) && out.extra.empty()) read_extra(map, "additional_special_tokens", out);
  }
  if (const std::optional<Json> json = read_if_there(added_file)) {
    const JsonObject added(*json, added_file, "", JsonNull::absent);
    for (const auto& [text, id] : added.json().items()) {
      if (!id.is_number_integer() || id < 0 || id > kMostTokenId) added.fail(fmt::format("the id of '{}' is not a token id", text.substr(0, 200)));
      const auto is = [&wanted = text](const AddedToken& token) { return token.text == wanted; };
      const bool special = std::ranges::any_of(out.extra, is) || std::ranges::any_of(out.named, [&](const auto& each) { return each.token && is(*each.token); });
      out.listed[id.get<int32_t>()] = {.text = text, .special = special, .normalized = !special};
    }
    out.listed_in = added_file;
  }
  return out;
}

void add_tokens_of_files(const AddedTokenFiles& files, const std::function<int32_t(const std::string&)>& id_of, int64_t vocabulary,
                         std::vector<AddedToken>& added, std::vector<std::string>& notes) {
  std::map<std::string, size_t> place_of;
  int64_t next = vocabulary;  // the id of the next new token, as AddedVocabulary of `tokenizers` counts
  for (size_t i = 0; i < added.size(); ++i) {
    place_of[added[i].text] = i;
    next = std::max(next, int64_t(added[i].id) + 1);
  }
  /// `given`: the id that `file` gives; -1: none.
  const auto place = [&](AddedToken token, int32_t given, const fs::path& file) {
    if (token.text.empty()) return;
    if (const auto it = place_of.find(token.text); it != place_of.end()) {
      token.id = added[it->second].id;  // another id in `file` does not count
      added[it->second] = std::move(token);
      return;
    }
    token.id = id_of(token.text);
    if (token.id < 0) {
      if (given >= 0 && given != next)
        throw AddedTokenError(file, -1,
                          fmt::format("gives the token '{}' the id {}, and the vocabulary next to it has no such token; transformers would give it {}",
                                      token.text.substr(0, 200), given, next));
      token.id = int32_t(next);
    }
    next = std::max(next, int64_t(token.id) + 1);
    place_of[token.text] = added.size();
    added.push_back(std::move(token));
  };
  std::map<int32_t, AddedToken> listed = files.listed;
  if (!files.has_decoder)  // then tokenizer.json's own list counts like one, and before added_tokens.json
    for (const AddedToken& token : added) listed[token.id] = token;
  for (auto [id, token] : listed) {
    for (const AddedTokenFiles::Named& named : files.named) token.special |= named.token && named.token->text == token.text;
    place(std::move(token), id, files.listed_in);
  }
  std::string missing;
  for (const AddedTokenFiles::Named& named : files.named) {
    if (!named.token || place_of.contains(named.token->text)) continue;
    AddedToken token = *named.token;
    token.special = true;
    if (!token.text.empty() && id_of(token.text) >= 0) {
      place(std::move(token), -1, named.file);
      continue;
    }
    if (!token.text.empty()) missing = token.text;
    notes.push_back(fmt::format("{}'s {} is '{}', which is not in the vocabulary: it is left out", named.file.filename().string(), named.name,
                                token.text.substr(0, 200)));
  }
  for (const AddedToken& token : files.extra) {
    if (place_of.contains(token.text)) continue;
    if (!missing.empty() && id_of(token.text) < 0)
      throw AddedTokenError(files.extra_in, -1,
                        fmt::format("has the special tokens '{}' and '{}', which the vocabulary next to it does not have, so the ids of both are open",
                                    missing.substr(0, 200), token.text.substr(0, 200)));
    place(token, -1, files.extra_in);
  }
}

}  // namespace overproof
