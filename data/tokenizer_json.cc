// tokenizer.json of Hugging Face `tokenizers`, for byte-level BPE: reading and writing.
// Format: https://github.com/huggingface/tokenizers (tokenizers/src, the Serialize implementations).

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/bpe.h"
#include "core/utf8.h"

namespace overproof {

namespace {

constexpr std::pair<const char*, SplitStep::Behaviour> kBehaviours[] = {
    {"Isolated", SplitStep::Behaviour::isolated},
    {"Removed", SplitStep::Behaviour::removed},
    {"MergedWithPrevious", SplitStep::Behaviour::merged_with_previous},
    {"MergedWithNext", SplitStep::Behaviour::merged_with_next},
    {"Contiguous", SplitStep::Behaviour::contiguous},
};

/// Reads members of one JSON object with messages that name the file and the member.
class Reader {
 public:
  explicit Reader(const fs::path& file) : file_(file) {}
  [[noreturn]] void fail(const std::string& cause) const { throw FormatError(file_, -1, cause); }
  const Json* find(const Json& object, const char* name) const {
    if (!object.is_object()) fail(fmt::format("an object with '{}' was expected", name));
    const auto it = object.find(name);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
  std::string text(const Json& object, const char* name) const {
    const Json* value = find(object, name);
    if (!value || !value->is_string()) fail(fmt::format("'{}' must be a string", name));
    return value->get<std::string>();
  }
  bool flag(const Json& object, const char* name, bool fallback) const {
    const Json* value = find(object, name);
    if (!value) return fallback;
    if (!value->is_boolean()) fail(fmt::format("'{}' must be true or false", name));
    return value->get<bool>();
  }
  int32_t id(const Json& value, const std::string& what) const {
    if (!value.is_number_integer() || value < 0 || value > (1 << 24)) fail(fmt::format("the id of '{}' is no token id", what));
    return value.get<int32_t>();
  }
  const Json& array(const Json& object, const char* name) const {
    const Json* value = find(object, name);
    if (!value || !value->is_array()) fail(fmt::format("'{}' must be a list", name));
    return *value;
  }

 private:
  const fs::path& file_;
};

void read_normalizer(const Reader& in, const Json& value, BpeDefinition& out) {
  const std::string type = in.text(value, "type");
  if (type == "NFC") {
    out.nfc = true;
  } else if (type == "Sequence") {
    for (const Json& step : in.array(value, "normalizers")) read_normalizer(in, step, out);
  } else {
    in.fail(fmt::format("normaliser '{}' is not supported (only NFC is)", type));
  }
}

/// `bytes_seen`: the ByteLevel step turned text into printable bytes, so nothing may cut after it.
void read_pre_tokenizer(const Reader& in, const Json& value, BpeDefinition& out, bool& bytes_seen) {
  const std::string type = in.text(value, "type");
  if (type == "Sequence") {
    for (const Json& step : in.array(value, "pretokenizers")) read_pre_tokenizer(in, step, out, bytes_seen);
    return;
  }
  if (bytes_seen) in.fail(fmt::format("pre-tokeniser '{}' after ByteLevel is not supported", type));
  SplitStep step;
  if (type == "ByteLevel") {
    bytes_seen = true;
    step.add_prefix_space = in.flag(value, "add_prefix_space", true);
    if (in.flag(value, "use_regex", true)) step.pattern = kGpt2Pattern;
    if (!step.add_prefix_space && step.pattern.empty()) return;
  } else if (type == "Digits") {
    step.pattern = R"(\p{N})";
    if (!in.flag(value, "individual_digits", false)) step.behaviour = SplitStep::Behaviour::contiguous;
  } else if (type == "Split") {
    const Json* pattern = in.find(value, "pattern");
    if (!pattern || !pattern->is_object() || pattern->size() != 1) in.fail("Split's 'pattern' must be {Regex} or {String}");
    step.literal = pattern->contains("String");
    step.pattern = in.text(*pattern, step.literal ? "String" : "Regex");
    if (step.pattern.empty()) in.fail("Split's 'pattern' is empty");
    step.invert = in.flag(value, "invert", false);
    const std::string behaviour = in.text(value, "behavior");
    const auto* it =
        std::find_if(std::begin(kBehaviours), std::end(kBehaviours), [&](const auto& known) { return behaviour == known.first; });
    if (it == std::end(kBehaviours)) in.fail(fmt::format("Split's behavior '{}' is not known", behaviour));
    step.behaviour = it->second;
  } else {
    in.fail(fmt::format("pre-tokeniser '{}' is not supported (Sequence, Split, Digits and ByteLevel are)", type));
  }
  out.pre_tokenizer.push_back(std::move(step));
}

void set_token(const Reader& in, BpeDefinition& out, int32_t id, const std::string& text) {
  if (size_t(id) >= out.tokens.size()) out.tokens.resize(size_t(id) + 1);
  std::string& place = out.tokens[size_t(id)];
  if (!place.empty() && place != text) in.fail(fmt::format("id {} belongs to both '{}' and '{}'", id, place, text));
  place = text;
}

void read_model(const Reader& in, const Json& model, BpeDefinition& out) {
  // Old files leave "type" out; every other model has members that BPE has not.
  if (in.find(model, "type") && in.text(model, "type") != "BPE") {
    in.fail(fmt::format("a model of type '{}' is not supported (byte-level BPE is)", in.text(model, "type")));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (in.find(model, name) && !in.text(model, name).empty()) in.fail(fmt::format("'{}' is not supported", name));
  }
  if (const Json* dropout = in.find(model, "dropout"); dropout && *dropout != 0) in.fail("'dropout' is not supported");
  if (in.flag(model, "byte_fallback", false)) in.fail("'byte_fallback' is not supported: this BPE is not byte-level");
  out.ignore_merges = in.flag(model, "ignore_merges", false);
  out.fuse_unknown = in.flag(model, "fuse_unk", false);

  const Json* vocab = in.find(model, "vocab");
  if (!vocab || !vocab->is_object()) in.fail("'vocab' must be an object");
  // Bounds what the ids can make us allocate: a hole costs a string, so there may be no more than a few for each token.
  const int64_t most = int64_t(vocab->size()) * 4 + 65536;
  for (const auto& [text, value] : vocab->items()) {
    const int32_t id = in.id(value, text);
    if (id >= most) in.fail(fmt::format("token '{}' has id {} in a vocabulary of {}", text, id, vocab->size()));
    if (text.empty()) in.fail("a token is empty");
    set_token(in, out, id, text);
  }
  for (const Json& merge : in.array(model, "merges")) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string pair = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = pair.find(' ');
    if (space == std::string::npos || space == 0 || pair.find(' ', space + 1) != std::string::npos) {
      in.fail(fmt::format("merge {} is not a pair", out.merges.size()));
    }
    out.merges.emplace_back(pair.substr(0, space), pair.substr(space + 1));
  }
  if (in.find(model, "unk_token")) {
    const Json* id = in.find(*vocab, in.text(model, "unk_token").c_str());
    if (!id) in.fail("'unk_token' is not in the vocabulary");
    out.unknown_symbol = out.unknown = id->get<int32_t>();
  }
}

void read_added_tokens(const Reader& in, const Json& list, BpeDefinition& out) {
  const int64_t most = int64_t(out.tokens.size()) + int64_t(list.size()) * 4 + 65536;
  for (const Json& value : list) {
    const Json* number = in.find(value, "id");
    AddedToken token{.text = in.text(value, "content")};
    if (token.text.empty()) in.fail("an added token is empty");
    token.id = in.id(number ? *number : Json(), token.text);
    if (token.id >= most) in.fail(fmt::format("added token '{}' has id {}", token.text, token.id));
    token.special = in.flag(value, "special", false);
    token.lstrip = in.flag(value, "lstrip", false);
    token.rstrip = in.flag(value, "rstrip", false);
    token.normalized = in.flag(value, "normalized", !token.special);
    token.single_word = in.flag(value, "single_word", false);
    set_token(in, out, token.id, token.text);
    out.added.push_back(std::move(token));
  }
}

/// The id behind "eos_token": "</s>" or {"content": "</s>"}; `now` when it is not given.
int32_t named_token(const Reader& in, const Json& config, const char* name, const BpeDefinition& definition, int32_t now) {
  const Json* value = in.find(config, name);
  if (!value) return now;
  const std::string text = value->is_object() ? in.text(*value, "content") : in.text(config, name);
  const auto it = std::find(definition.tokens.begin(), definition.tokens.end(), text);
  if (it == definition.tokens.end()) in.fail(fmt::format("'{}' names '{}', which is not in the vocabulary", name, text));
  return int32_t(it - definition.tokens.begin());
}

}  // namespace

BpeDefinition parse_tokenizer_json(std::string_view text, const fs::path& file) {
  const Reader in(file);
  const Json root = parse_json(text, file);
  BpeDefinition out;
  const Json* model = in.find(root, "model");
  if (!model) in.fail("it has no 'model', so it is no tokenizer.json");
  read_model(in, *model, out);
  if (const Json* added = in.find(root, "added_tokens")) {
    if (!added->is_array()) in.fail("'added_tokens' must be a list");
    read_added_tokens(in, *added, out);
  }
  if (const Json* normalizer = in.find(root, "normalizer")) read_normalizer(in, *normalizer, out);
  bool bytes_seen = false;
  if (const Json* pre = in.find(root, "pre_tokenizer")) read_pre_tokenizer(in, *pre, out, bytes_seen);
  if (!bytes_seen) in.fail("it has no ByteLevel pre-tokeniser; only byte-level BPE is supported");
  return out;
}

BpeDefinition read_tokenizer_json(const fs::path& file) {
  BpeDefinition out = parse_tokenizer_json(read_file(file, int64_t{256} << 20), file);
  if (const fs::path path = file.parent_path() / "tokenizer_config.json"; fs::exists(path)) {
    const Json config = read_json(path);
    const Reader in(path);
    out.bos = named_token(in, config, "bos_token", out, out.bos);
    out.eos = named_token(in, config, "eos_token", out, out.eos);
    out.unknown = named_token(in, config, "unk_token", out, out.unknown);
    out.padding = named_token(in, config, "pad_token", out, out.padding);
    if (const Json* chat = in.find(config, "chat_template"); chat && chat->is_string())
      out.chat_template = chat->get<std::string>();
  }
  if (const fs::path path = file.parent_path() / "config.json"; fs::exists(path)) {
    const Json config = read_json(path);
    const Reader in(path);
    const auto id_of = [&](const char* name, int32_t now) {
      const Json* value = in.find(config, name);
      if (now >= 0 || !value) return now;
      if (value->is_array() && !value->empty()) value = &value->front();  // several ends: the first is the model's own
      const int32_t id = in.id(*value, name);
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
  if (!definition.chat_template.empty()) root["chat_template"] = to_valid_utf8(definition.chat_template);
  return root.dump(1, ' ') + "\n";
}

}  // namespace overproof
