// A SentencePiece model with the files next to it, as transformers 5.23 opens such a folder (measured: tests/interop/test_added_tokens.py).

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <unordered_map>

#include "core/error.h"
#include "core/file.h"
#include "core/json_object.h"
#include "core/lfs_pointer.h"
#include "core/progress_note.h"
#include "core/python_json.h"
#include "data/added_token_files.h"
#include "data/sentencepiece_tokenizer.h"

namespace overproof {

namespace {

Json read_object_if_there(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  Json json = read_python_json(file);
  if (!json.is_object()) throw FormatError(file, 0, "is not a JSON object");
  return json;
}

bool one_of(std::string_view text, std::initializer_list<std::string_view> all) { return std::ranges::count(all, text) > 0; }

class SentencePieceFolder {
 public:
  SentencePieceFolder(const SentencePieceVocabulary& model, const fs::path& file)
      : model_(model), file_(file), folder_(file.parent_path()), config_file_(folder_ / "tokenizer_config.json"), json_file_(folder_ / "tokenizer.json") {
    files_ = read_added_token_files(folder_);
    if (fs::exists(json_file_)) json_ = read_object_if_there(json_file_);
    // As GGUF export finds it: one vocabulary twice. Byte-level BPE, which another reader opens, has no tokens of this model.
    if (json_.is_object() && json_.value("model", Json()).is_object() && json_["model"].value("byte_fallback", Json()) != true) json_ = Json();
    for (size_t id = 0; id < model.pieces.size(); ++id) ids_.emplace(model.pieces[id].text, int32_t(id));
  }

  SentencePieceAdditions read(std::vector<std::string>& notes) {
    SentencePieceAdditions out;
    std::vector<AddedToken> in_json;
    if (json_.is_object()) in_json = json_tokens();
    if (adds_beyond_the_model(in_json)) out = additions(std::move(in_json), notes);
    for (const auto& [name, id] : {std::pair("bos_token", &out.bos), {"eos_token", &out.eos}}) {
      const AddedTokenFiles::Named* named = files_.find(name);
      if (!named || !named->token) continue;
      const auto added = std::ranges::find(out.tokens, named->token->text, &AddedToken::text);
      if (added != out.tokens.end()) *id = added->id;
      else if (const int32_t piece = id_of(named->token->text); piece >= 0) *id = piece;
      else if (out.tokens.empty())
        notes.push_back(fmt::format("{}'s {} is '{}', which is not in the vocabulary: it is left out", named->file.filename().string(), name,
                                    named->token->text.substr(0, 200)));
    }
    return out;
  }

 private:
  using Prefix = SentencePieceAdditions::Prefix;
  static constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4;  // types of pieces

  [[noreturn]] void fail(const fs::path& file, const std::string& cause) const { throw FormatError(file, -1, cause); }

  int32_t id_of(const std::string& text) const {
    const auto it = ids_.find(text);
    return it == ids_.end() ? -1 : it->second;
  }

  std::vector<AddedToken> json_tokens() const {
    std::vector<AddedToken> out;
    const JsonObject root(json_, json_file_, "", JsonNull::absent);
    for (const JsonObject& in : root.objects_or_empty("added_tokens")) {
      AddedToken token{.id = int32_t(in.integer("id", 0, 1 << 24)), .text = in.text("content"), .special = in.flag("special", false)};
      token.lstrip = in.flag("lstrip", false);
      token.rstrip = in.flag("rstrip", false);
      token.normalized = in.flag("normalized", !token.special);
      token.single_word = in.flag("single_word", false);
      out.push_back(std::move(token));
    }
    return out;
  }

  /// Whether a token is to be found that the model alone does not find.
  bool adds_beyond_the_model(const std::vector<AddedToken>& in_json) const {
    const auto beyond = [&](const std::string& text) {
      const int32_t id = id_of(text);
      return !text.empty() && (id < 0 || model_.pieces[size_t(id)].type == kNormal);
    };
    return std::ranges::any_of(in_json, [&](const AddedToken& token) { return beyond(token.text); }) ||
           std::ranges::any_of(files_.listed, [&](const auto& entry) { return beyond(entry.second.text); }) ||
           std::ranges::any_of(files_.extra, [&](const AddedToken& token) { return beyond(token.text); });
  }

  /// Which program of transformers opens the folder decides where a space is put before a word.
  enum class Opener { llama, backend };
  Opener opener() const {
    const Json config = read_object_if_there(folder_ / "config.json"), settings = read_object_if_there(config_file_);
    const auto text = [](const Json& json, const char* name) {
      const Json value = json.value(name, Json());
      return value.is_string() ? value.get<std::string>() : std::string();
    };
    const std::string type = text(config, "model_type");
    std::string name = text(settings, "tokenizer_class");
    if (name.empty()) name = text(config, "tokenizer_class");
    if (name.ends_with("Fast")) name.resize(name.size() - 4);
    const bool own = one_of(type, {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "cohere"});
    const bool backend = one_of(type, {"mistral", "mixtral", "phi3", "granite", "granitemoe", "olmo2", "glm4_moe", "stablelm"});
    if (!own && name == "LlamaTokenizer") return backend ? Opener::backend : Opener::llama;
    if (!own && one_of(name, {"", "PreTrainedTokenizer", "TokenizersBackend"})) return Opener::backend;
    fail(config_file_, fmt::format("adds tokens to {}, and how '{}' of a model of type '{}' splits text between them is not known; LlamaTokenizer and "
                                   "PreTrainedTokenizerFast are",
                                   file_.filename().string(), name, type));
  }

  Prefix llama_prefix() const {
    const Json json = read_object_if_there(config_file_);
    const JsonObject config(json, config_file_, "", JsonNull::absent);
    if (!config.flag("add_prefix_space", true)) return Prefix::never;
    return config.flag("legacy", false) ? Prefix::always : Prefix::first;
  }

  /// Of tokenizer.json's normaliser and pre-tokeniser.
  Prefix json_prefix() const {
    const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}, prepend = {{"type", "Prepend"}, {"prepend", "\u2581"}};
    const Json normalizer = json_.value("normalizer", Json()), pre = json_.value("pre_tokenizer", Json());
    const auto sequence = [](Json steps) { return Json{{"type", "Sequence"}, {"normalizers", std::move(steps)}}; };
    if (pre.is_null() && normalizer == sequence(Json::array({prepend, replace}))) return Prefix::unconditional;
    if (pre.is_null() && (normalizer == replace || normalizer == sequence(Json::array({replace})))) return Prefix::never;
    if (normalizer.is_null() && pre.is_object() && pre.value("type", Json()) == "Metaspace" && pre.value("replacement", Json()) == "\u2581" &&
        pre.value("split", Json()) == false) {
      const Json scheme = pre.value("prepend_scheme", Json());
      if (scheme == "first") return Prefix::first;
      if (scheme == "always") return Prefix::always;
      if (scheme == "never") return Prefix::never;
    }
    fail(json_file_, "normaliser and pre-tokeniser are none of a SentencePiece model with added tokens");
  }

  /// tokenizer.json has the same vocabulary under the same ids, but for its added tokens.
  void check_same_vocabulary(const std::vector<AddedToken>& in_json) const {
    const Json vocab = json_["model"].value("vocab", Json());
    if (!vocab.is_object()) fail(json_file_, "its 'vocab' is no object");
    std::map<std::string_view, Json> added;
    for (const AddedToken& token : in_json) added.emplace(token.text, token.id);
    size_t known = 0;
    for (const auto& [text, id] : vocab.items()) {
      if (id_of(text) >= 0 && id == id_of(text)) ++known;
      else if (const auto token = added.find(text); token == added.end() || token->second != id)
        fail(json_file_, fmt::format("has the token '{}', which {} does not have under that id", text.substr(0, 200), file_.filename().string()));
    }
    if (known != model_.pieces.size()) fail(json_file_, fmt::format("has {} of the {} pieces of {}", known, model_.pieces.size(), file_.filename().string()));
  }

  SentencePieceAdditions additions(std::vector<AddedToken> in_json, std::vector<std::string>& notes) {
    const Opener opened_by = opener();
    if (model_.kind != SentencePieceVocabulary::Kind::bpe || model_.normalises)
      fail(file_, fmt::format("{} adds tokens, which is supported for BPE models without normalisation rules only", files_.listed_in.filename().string()));
    const bool has_json = json_.is_object();
    if (has_json) check_same_vocabulary(in_json);
    SentencePieceAdditions out;
    if (opened_by == Opener::llama) out.prefix = llama_prefix();
    else out.prefix = has_json ? json_prefix() : Prefix::never;
    // Control and user-defined pieces are added tokens where transformers reads the model itself and no file names others.
    if (!has_json && files_.extra.empty())
      for (size_t id = 0; id < model_.pieces.size(); ++id)
        if (const auto& piece = model_.pieces[id]; piece.type == kControl || piece.type == kUserDefined)
          files_.extra.push_back({.text = piece.text, .special = piece.type == kControl});
    const auto default_name = [&](const char* name, std::string text) {
      if (!files_.find(name)) files_.named.push_back({name, AddedToken{.text = std::move(text), .special = true}, file_});
    };
    const auto piece = [&](int32_t id) { return id >= 0 ? model_.pieces[size_t(id)].text : std::string(); };
    if (opened_by == Opener::llama) {
      default_name("bos_token", "<s>");
      default_name("eos_token", "</s>");
      default_name("unk_token", "<unk>");
    } else if (!has_json) {
      if (model_.bos >= 0) default_name("bos_token", piece(model_.bos));
      if (model_.eos >= 0) default_name("eos_token", piece(model_.eos));
      if (model_.unknown >= 0) default_name("unk_token", piece(model_.unknown));
    }
    std::vector<AddedToken>& tokens = out.tokens;
    // Llama's class keeps the vocabulary of tokenizer.json alone; its list of added tokens counts where no other does.
    if (opened_by == Opener::backend) {
      tokens = std::move(in_json);
    } else if (!files_.has_decoder) {
      for (AddedToken& token : in_json) {
        const int32_t id = token.id;
        files_.listed[id] = std::move(token);
      }
    }
    const auto count = int64_t(model_.pieces.size());
    add_tokens_of_files(files_, [&](const std::string& text) { return id_of(text); }, count, tokens, notes);
    for (const AddedToken& token : tokens) {
      const bool strips = token.lstrip || token.rstrip;
      if (token.normalized && strips && out.prefix == Prefix::unconditional)
        fail(files_.listed_in, fmt::format("the added token '{}' is normalised and takes white space along, which is not supported here", token.text.substr(0, 200)));
      if (token.id < count && model_.pieces[size_t(token.id)].text != token.text)
        fail(file_, fmt::format("id {} is '{}' here and '{}' in the files next to it", token.id, model_.pieces[size_t(token.id)].text, token.text.substr(0, 200)));
    }
    return out;
  }

  const SentencePieceVocabulary& model_;
  const fs::path& file_;
  fs::path folder_, config_file_, json_file_;
  AddedTokenFiles files_;
  Json json_;
  std::unordered_map<std::string, int32_t> ids_;
};

}  // namespace

std::unique_ptr<Tokenizer> open_sentencepiece(const fs::path& file) {
  const std::string model = read_file(file, int64_t{256} << 20);
  const SentencePieceVocabulary vocabulary = read_sentencepiece_vocabulary(model, file);
  std::vector<std::string> notes;
  SentencePieceAdditions additions = SentencePieceFolder(vocabulary, file).read(notes);
  for (const std::string& note : notes) progress_note("note: " + note);
  return make_sentencepiece(model, file, false, std::move(additions));
}

}  // namespace overproof
