// tokenizer.json of Hugging Face `tokenizers`, for byte-level BPE: reading and writing.
// What the files next to it add: data/added_token_files.h.
// Format: https://github.com/huggingface/tokenizers (tokenizers/src, the Serialize implementations).

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "core/json_object.h"
#include "core/python_json.h"
#include "core/utf8.h"
#include "data/added_token_files.h"
#include "data/bpe.h"
#include "data/chat_templates.h"

namespace overproof {

namespace {

constexpr std::pair<const char*, SplitStep::Behaviour> kBehaviours[] = {
    {"Isolated", SplitStep::Behaviour::isolated},
    {"Removed", SplitStep::Behaviour::removed},
    {"MergedWithPrevious", SplitStep::Behaviour::merged_with_previous},
    {"MergedWithNext", SplitStep::Behaviour::merged_with_next},
    {"Contiguous", SplitStep::Behaviour::contiguous},
};

int32_t token_id(const JsonObject& in, const Json& value, const std::string& what) {
  if (!value.is_number_integer() || value < 0 || value > (1 << 24))
    in.fail(fmt::format("the id of '{}' is not a token id", what.substr(0, 200)));
  return value.get<int32_t>();
}

void read_normalizer(const JsonObject& in, BpeDefinition& out) {
  const std::string type = in.text("type");
  if (type == "NFC") {
    out.nfc = true;
  } else if (type == "Sequence") {
    for (const JsonObject& step : in.objects("normalizers")) read_normalizer(step, out);
  } else {
    in.fail(fmt::format("normaliser '{}' is not supported (only NFC is)", type));
  }
}

/// `bytes_seen`: the ByteLevel step turned text into printable bytes, so nothing may cut after it.
void read_pre_tokenizer(const JsonObject& in, BpeDefinition& out, bool& bytes_seen) {
  const std::string type = in.text("type");
  if (type == "Sequence") {
    for (const JsonObject& step : in.objects("pretokenizers")) read_pre_tokenizer(step, out, bytes_seen);
    return;
  }
  if (bytes_seen) in.fail(fmt::format("pre-tokeniser '{}' after ByteLevel is not supported", type));
  SplitStep step;
  if (type == "ByteLevel") {
    bytes_seen = true;
    step.add_prefix_space = in.flag("add_prefix_space", true);
    if (in.flag("use_regex", true)) step.pattern = kGpt2Pattern;
    if (!step.add_prefix_space && step.pattern.empty()) return;
  } else if (type == "Digits") {
    step.pattern = R"(\p{N})";
    if (!in.flag("individual_digits", false)) step.behaviour = SplitStep::Behaviour::contiguous;
  } else if (type == "Split") {
    const JsonObject pattern = in.object("pattern");
    if (pattern.json().size() != 1) pattern.fail("must have one member: Regex or String");
    step.literal = pattern.has("String");
    step.pattern = pattern.text(step.literal ? "String" : "Regex");
    if (step.pattern.empty()) in.fail("Split's 'pattern' is empty");
    step.invert = in.flag("invert", false);
    const std::string behaviour = in.text("behavior");
    const auto* it =
        std::find_if(std::begin(kBehaviours), std::end(kBehaviours), [&](const auto& known) { return behaviour == known.first; });
    if (it == std::end(kBehaviours)) in.fail(fmt::format("Split's behavior '{}' is not known", behaviour));
    step.behaviour = it->second;
  } else {
    in.fail(fmt::format("pre-tokeniser '{}' is not supported (Sequence, Split, Digits and ByteLevel are)", type));
  }
  out.pre_tokenizer.push_back(std::move(step));
}

void set_token(const JsonObject& in, BpeDefinition& out, int32_t id, const std::string& text) {
  if (size_t(id) >= out.tokens.size()) out.tokens.resize(size_t(id) + 1);
  std::string& place = out.tokens[size_t(id)];
  if (!place.empty() && place != text)
    in.fail(fmt::format("id {} belongs to both '{}' and '{}'", id, place.substr(0, 200), text.substr(0, 200)));
  place = text;
}

void read_model(const JsonObject& model, BpeDefinition& out) {
  // Old files leave "type" out; every other model has members that BPE has not.
  if (const std::string type = model.text("type", "BPE"); type != "BPE")
    model.fail(fmt::format("a model of type '{}' is not supported (byte-level BPE is)", type));
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text(name, "").empty()) model.fail(fmt::format("'{}' is not supported", name));
  }
  if (const Json* dropout = model.find("dropout"); dropout && *dropout != 0) model.fail("'dropout' is not supported");
  if (model.flag("byte_fallback", false)) model.fail("'byte_fallback' is not supported: this BPE is not byte-level; put the model's tokenizer.model next to it");
  out.ignore_merges = model.flag("ignore_merges", false);
  out.fuse_unknown = model.flag("fuse_unk", false);

  const JsonObject vocab = model.object("vocab");
  out.vocabulary = int64_t(vocab.json().size());
  // Bounds what the ids can make us allocate: a hole costs a string, so there may be no more than a few for each token.
  const int64_t most = int64_t(vocab.json().size()) * 4 + 65536;
  for (const auto& [text, value] : vocab.json().items()) {
    const int32_t id = token_id(vocab, value, text);
    if (id >= most) model.fail(fmt::format("token '{}' has id {} in a vocabulary of {}", text, id, vocab.json().size()));
    if (text.empty()) model.fail("a token is empty");
    set_token(vocab, out, id, text);
  }
  for (const Json& merge : model.list("merges")) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string pair = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = pair.find(' ');
    if (space == std::string::npos || space == 0 || pair.find(' ', space + 1) != std::string::npos) {
      model.fail(fmt::format("merge {} is not a pair", out.merges.size()));
    }
    out.merges.emplace_back(pair.substr(0, space), pair.substr(space + 1));
  }
  if (model.has("unk_token")) {
    const Json* id = vocab.find(model.text("unk_token"));
    if (!id) model.fail("unk_token", "is not in the vocabulary");
    out.unknown_symbol = out.unknown = id->get<int32_t>();
  }
}

void read_added_tokens(const JsonObject& root, BpeDefinition& out) {
  const std::vector<JsonObject> list = root.objects_or_empty("added_tokens");
  const int64_t most = int64_t(out.tokens.size()) + int64_t(list.size()) * 4 + 65536;
  for (const JsonObject& in : list) {
    AddedToken token{.text = in.text("content")};
    if (token.text.empty()) in.fail("an added token is empty");
    token.id = int32_t(in.integer("id", 0, most - 1));
    token.special = in.flag("special", false);
    token.lstrip = in.flag("lstrip", false);
    token.rstrip = in.flag("rstrip", false);
    token.normalized = in.flag("normalized", !token.special);
    token.single_word = in.flag("single_word", false);
    set_token(in, out, token.id, token.text);
    out.added.push_back(std::move(token));
  }
}

/// Tokens, flags and special ids of the files next to tokenizer.json.
void read_token_files(const fs::path& file, BpeDefinition& out) {
  const AddedTokenFiles files = read_added_token_files(file.parent_path());
  std::unordered_map<std::string, int32_t> ids;
  for (size_t id = 0; id < out.tokens.size(); ++id)
    if (!out.tokens[id].empty()) ids.emplace(out.tokens[id], int32_t(id));
  const auto id_of = [&](const std::string& text) {
    const auto it = ids.find(text);
    return it == ids.end() ? -1 : it->second;
  };
  // Added tokens are in `ids` too; they are found in the list of them first.
  add_tokens_of_files(files, id_of, out.vocabulary, out.added, out.notes);
  for (const AddedToken& token : out.added) {
    if (size_t(token.id) < out.tokens.size() && out.tokens[size_t(token.id)] == token.text) continue;
    if (size_t(token.id) >= out.tokens.size()) out.tokens.resize(size_t(token.id) + 1);
    std::string& place = out.tokens[size_t(token.id)];
    if (!place.empty())
      throw AddedTokenError(files.listed_in, -1, fmt::format("adds the token '{}', whose id {} belongs to '{}'", token.text.substr(0, 200), token.id, place.substr(0, 200)));
    place = token.text;
    ids.emplace(token.text, token.id);
  }
  for (const auto& [name, id] : {std::pair("bos_token", &out.bos), {"eos_token", &out.eos}, {"unk_token", &out.unknown}, {"pad_token", &out.padding}})
    if (const AddedTokenFiles::Named* named = files.find(name); named && named->token)
      if (const int32_t found = id_of(named->token->text); found >= 0) *id = found;
}

}  // namespace

BpeDefinition parse_tokenizer_json(std::string_view text, const fs::path& file) {
  const Json json = parse_json(text, file);
  const JsonObject root(json, file, "", JsonNull::absent);
  BpeDefinition out;
  if (!root.has("model")) root.fail("has no 'model', so it is not a tokenizer.json");
  read_model(root.object("model"), out);
  read_added_tokens(root, out);
  if (const auto normalizer = root.find_object("normalizer")) read_normalizer(*normalizer, out);
  bool bytes_seen = false;
  if (const auto pre = root.find_object("pre_tokenizer")) read_pre_tokenizer(*pre, out, bytes_seen);
  if (!bytes_seen) root.fail("has no ByteLevel pre-tokeniser; only byte-level BPE is supported");
  return out;
}

namespace {

void set_templates(const ChatTemplates& templates, BpeDefinition& out) {
  out.chat_template = templates.text();
  for (const auto& named : templates.named)
    if (named.first != kDefaultTemplate) out.more_templates.push_back(named);
  if (!templates.note.empty()) out.notes.push_back(templates.note);
}

}  // namespace

BpeDefinition read_tokenizer_json(const fs::path& file) {
  BpeDefinition out = parse_tokenizer_json(read_file(file, int64_t{256} << 20), file);
  read_token_files(file, out);
  if (const fs::path path = file.parent_path() / "tokenizer_config.json"; fs::exists(path)) {
    set_templates(read_chat_templates(file.parent_path(), read_python_json(path)), out);
  } else {
    set_templates(read_chat_templates(file.parent_path(), Json()), out);
  }
  if (const fs::path path = file.parent_path() / "config.json"; fs::exists(path)) {
    const Json json = read_python_json(path);
    const JsonObject config(json, path, "", JsonNull::absent);
    const auto id_of = [&](const char* name, int32_t now) {
      const Json* value = config.find(name);
      if (now >= 0 || !value) return now;
      if (value->is_array() && !value->empty()) value = &value->front();  // several ends: the first is the model's own
      const int32_t id = token_id(config, *value, name);
      return size_t(id) < out.tokens.size() ? id : -1;
    };
    out.bos = id_of("bos_token_id", out.bos);
    out.eos = id_of("eos_token_id", out.eos);
  }
  return out;
}

std::string write_tokenizer_json(const BpeDefinition& definition) {
  Json vocab = Json::object(), merges = Json::array(), added = Json::array(), steps = Json::array();
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (!definition.tokens[id].empty()) vocab[definition.tokens[id]] = id;
  }
  for (const auto& [left, right] : definition.merges) merges.push_back(Json::array({left, right}));
  std::vector<AddedToken> sorted = definition.added;
  std::sort(sorted.begin(), sorted.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : sorted) {
    added.push_back({{"id", token.id},
                     {"content", token.text},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  }
  Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  for (size_t i = 0; i < definition.pre_tokenizer.size(); ++i) {
    const SplitStep& step = definition.pre_tokenizer[i];
    const bool last = i + 1 == definition.pre_tokenizer.size();
    const bool gpt2 =
        !step.literal && !step.invert && step.behaviour == SplitStep::Behaviour::isolated && step.pattern == kGpt2Pattern;
    if (last && (gpt2 || step.add_prefix_space)) {
      OVERPROOF_CHECK(gpt2 || step.pattern.empty());
      byte_level["add_prefix_space"] = step.add_prefix_space;
      byte_level["use_regex"] = gpt2;
      continue;
    }
    OVERPROOF_CHECK(!step.add_prefix_space);  // both readers put it in the last step only
    const auto* behaviour = std::find_if(std::begin(kBehaviours), std::end(kBehaviours),
                                         [&](const auto& known) { return step.behaviour == known.second; });
    steps.push_back({{"type", "Split"},
                     {"pattern", {{step.literal ? "String" : "Regex", step.pattern}}},
                     {"behavior", behaviour->first},
                     {"invert", step.invert}});
  }
  steps.push_back(byte_level);
  const Json unknown = definition.unknown_symbol < 0 ? Json() : Json(definition.tokens[size_t(definition.unknown_symbol)]);
  const Json root = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", definition.nfc ? Json{{"type", "NFC"}} : Json()},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", unknown},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", definition.fuse_unknown},
        {"byte_fallback", false},
        {"ignore_merges", definition.ignore_merges},
        {"vocab", vocab},
        {"merges", merges}}}};
  return root.dump(1, ' ') + "\n";
}

std::string write_tokenizer_config_json(const BpeDefinition& definition) {
  Json root = {{"tokenizer_class", "PreTrainedTokenizerFast"},
               {"clean_up_tokenization_spaces", false},
               {"add_bos_token", false},
               {"add_prefix_space", false}};
  const auto put = [&](const char* name, int32_t id) {
    if (id >= 0) root[name] = definition.tokens.at(size_t(id));
  };
  put("bos_token", definition.bos);
  put("eos_token", definition.eos);
  put("unk_token", definition.unknown);
  put("pad_token", definition.padding);
  if (definition.more_templates.empty()) {
    if (!definition.chat_template.empty()) root["chat_template"] = to_valid_utf8(definition.chat_template);
    return root.dump(1, ' ') + "\n";
  }
  Json& list = root["chat_template"] = Json::array();
  const auto add = [&](const std::string& name, const std::string& text) {
    list.push_back({{"name", to_valid_utf8(name)}, {"template", to_valid_utf8(text)}});
  };
  if (!definition.chat_template.empty()) add(kDefaultTemplate, definition.chat_template);
  for (const auto& [name, text] : definition.more_templates) add(name, text);
  return root.dump(1, ' ') + "\n";
}

}  // namespace overproof
