#include "data/gguf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "core/error.h"
#include "core/json.h"
#include "core/python_json.h"
#include "data/added_token_files.h"
#include "data/bpe.h"
#include "data/chat_templates.h"
#include "data/gguf_pre_tokenizers.h"
#include "data/sentencepiece_tokenizer.h"
#include "formats/folder_contents.h"
#include "formats/gguf.h"

namespace overproof {
namespace {

/// llama.cpp's token types; SentencePiece numbers them alike.
using namespace gguf_token;
/// The score of what is no piece of a SentencePiece model; convert_hf_to_gguf.py gives the same.
constexpr float kAddedScore = -1000.0f, kUnusedScore = -10000.0f;

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;  // of SentencePiece only
  int32_t bos = -1, eos = -1, unknown = -1, padding = -1;
  bool add_bos = false, add_eos = false;
  ChatTemplates templates;
  std::vector<int32_t> more_ends;  // ids other than eos that end a text
};

Json read_json_if_there(const fs::path& file) {
  if (!fs::exists(file)) return Json::object();
  Json json = read_python_json(file);
  if (!json.is_object()) throw FormatError(file, 0, "is not a JSON object");
  return json;
}

/// Fills ids without a token, and makes sure that llama.cpp's map from text to id has every id.
void complete(Vocabulary& v, int64_t vocabulary, const fs::path& file) {
  if (int64_t(v.tokens.size()) > vocabulary) {
    throw FormatError(file, -1, fmt::format("has {} tokens; the model's embedding has {} rows", v.tokens.size(), vocabulary));
  }
  const bool scored = !v.scores.empty();
  v.types.resize(v.tokens.size(), kNormal);
  v.tokens.resize(size_t(vocabulary));
  v.types.resize(size_t(vocabulary), kUnused);
  if (scored) v.scores.resize(size_t(vocabulary), kUnusedScore);
  std::unordered_set<std::string_view> seen;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.tokens[id].empty()) {
      v.tokens[id] = fmt::format("[PAD{}]", id);
      v.types[id] = kUnused;
    }
    if (!seen.insert(v.tokens[id]).second)
      throw FormatError(file, -1, fmt::format("two ids have the token '{}', which llama.cpp refuses", v.tokens[id]));
  }
}

void write(const Vocabulary& v, std::string_view model, std::string_view pre, GgufMetadata& out) {
  out.add_text("tokenizer.ggml.model", model);
  out.add_text("tokenizer.ggml.pre", pre);
  out.add_texts("tokenizer.ggml.tokens", v.tokens);
  if (!v.scores.empty()) out.add_f32s("tokenizer.ggml.scores", v.scores);
  out.add_i32s("tokenizer.ggml.token_type", v.types);
  const auto id = [&](std::string_view name, int32_t value) {
    if (value >= 0) out.add_u32(fmt::format("tokenizer.ggml.{}_token_id", name), value);
  };
  id("bos", v.bos);
  id("eos", v.eos);
  id("unknown", v.unknown);
  id("padding", v.padding);
  // Always written: llama.cpp takes a default from the pre-tokeniser's name.
  out.add_bool("tokenizer.ggml.add_bos_token", v.add_bos && v.bos >= 0);
  out.add_bool("tokenizer.ggml.add_eos_token", v.add_eos && v.eos >= 0);
  static constexpr const char* kMoreEnds[] = {"eot", "eom"};  // at which llama.cpp stops as at eos
  for (size_t i = 0; i < std::min(v.more_ends.size(), std::size(kMoreEnds)); ++i) id(kMoreEnds[i], v.more_ends[i]);
  std::vector<std::string> names;
  for (const auto& [name, text] : v.templates.named) {
    if (name == kDefaultTemplate) {
      out.add_text("tokenizer.chat_template", text);
      continue;
    }
    std::string plain = name;  // as the gguf package spells it in a key
    for (char& c : plain)
      if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) c = '_';
    if (std::ranges::find(names, plain) != names.end()) continue;
    out.add_text("tokenizer.chat_template." + plain, text);
    names.push_back(plain);
  }
  if (!names.empty()) out.add_texts("tokenizer.chat_templates", names);
}

/// What of a vocabulary the file cannot express.
void add_notes(const Vocabulary& v, std::vector<std::string>& notes) {
  if (!v.templates.note.empty()) notes.push_back(v.templates.note);
  if (v.more_ends.size() > 2)
    notes.push_back(fmt::format("{} ids end a text, and GGUF has places for three: llama.cpp does not stop at the others",
                                v.more_ends.size() + 1));
}

/// The tokens that a tokenizer adds before (or after) a text: from its template of one text, else from tokenizer_config.json.
bool adds_special(const Json& tokenizer, const Json& config, bool first, std::string_view token, bool fallback) {
  if (const auto post = tokenizer.find("post_processor"); post != tokenizer.end() && post->is_object()) {
    const Json list = post->contains("processors") ? (*post)["processors"] : Json::array({*post});
    bool byte_level = false;
    for (const Json& step : list) {
      if (!step.is_object()) continue;
      const Json type = step.value("type", Json());
      byte_level |= type == "ByteLevel";
      if (type != "TemplateProcessing" || !step.contains("single") || !step["single"].is_array() || step["single"].empty())
        continue;
      const Json& end = first ? step["single"].front() : step["single"].back();
      const Json* special = end.is_object() && end.contains("SpecialToken") ? &end["SpecialToken"] : nullptr;
      return special && special->is_object() && special->value("id", Json()) == token;
    }
    // Files without a template add nothing, but where the models' own class was transformers 4's Llama tokenizer, its flag did.
    const Json tokenizer_class = config.value("tokenizer_class", Json());
    const bool by_flag = tokenizer_class == "LlamaTokenizerFast" || tokenizer_class == "LlamaTokenizer";
    if (byte_level && !by_flag) return false;
  }
  const Json flag = config.value(first ? "add_bos_token" : "add_eos_token", Json());
  return flag.is_boolean() ? flag.get<bool>() : fallback;
}

/// Ids that the tokenizer's own files leave open, as generation and the model's configuration name them, and further ones that end a text.
void add_configured_ids(const fs::path& folder, Vocabulary& v) {
  Json ends;  // of generation, where it names some
  for (const char* file : {"generation_config.json", "config.json"}) {
    const Json config = read_json_if_there(folder / file);
    if (ends.is_null()) ends = config.value("eos_token_id", Json());
    for (const auto& [name, id] : {std::pair("bos_token_id", &v.bos), {"eos_token_id", &v.eos}, {"pad_token_id", &v.padding}}) {
      Json value = config.value(name, Json());
      if (value.is_array() && !value.empty()) value = Json(value.front());  // of several ends the first is the model's own
      if (*id < 0 && value.is_number_integer() && value >= 0 && value < v.tokens.size()) *id = value.get<int32_t>();
    }
  }
  for (const Json& end : ends.is_array() ? ends : Json::array({ends}))
    if (end.is_number_integer() && end >= 0 && end < v.tokens.size() && end != v.eos) v.more_ends.push_back(end.get<int32_t>());
}

std::vector<std::string> add_bpe(const BpeDefinition& definition, const fs::path& file, int64_t vocabulary, GgufMetadata& out) {
  const GgufPreTokenizer* pre = find_gguf_pre_tokenizer(definition);
  if (!pre) {
    throw FormatError(file, -1,
                      "llama.cpp has no pre-tokeniser that splits as this one does, so a GGUF of it would give other ids");
  }
  std::vector<std::string> notes;
  if (definition.nfc)
    notes.emplace_back("the tokenizer normalises text to NFC, which llama.cpp does not: ids of other text differ");
  if (!pre->differs.empty()) notes.emplace_back(pre->differs);
  const Json tokenizer = read_json(file), config = read_json_if_there(file.parent_path() / "tokenizer_config.json");
  Vocabulary v;
  v.tokens = definition.tokens;
  v.types.assign(v.tokens.size(), kNormal);
  bool strips = false;
  for (const AddedToken& token : definition.added) {
    v.types[size_t(token.id)] = token.special ? kControl : kUserDefined;
    strips |= token.lstrip || token.rstrip || token.single_word;
  }
  if (strips) notes.emplace_back("added tokens take white space along or are single words only, which GGUF cannot express");
  v.bos = definition.bos;
  v.eos = definition.eos;
  v.unknown = definition.unknown;
  v.padding = definition.padding;
  add_configured_ids(file.parent_path(), v);
  const auto text = [&](int32_t id) { return id >= 0 ? definition.tokens.at(size_t(id)) : std::string(); };
  v.add_bos = v.bos >= 0 && adds_special(tokenizer, config, true, text(v.bos), false);
  v.add_eos = v.eos >= 0 && adds_special(tokenizer, config, false, text(v.eos), false);
  v.templates = read_chat_templates(file.parent_path(), config);
  add_notes(v, notes);
  for (const std::string& note : definition.notes)
    if (note != v.templates.note) notes.push_back(note);
  complete(v, vocabulary, file);
  write(v, "gpt2", pre->name, out);
  std::vector<std::string> merges;
  for (const auto& [left, right] : definition.merges) {
    // llama.cpp parts a merge at its first space; byte-level symbols have none.
    if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos)
      throw FormatError(file, -1, "a merge contains a space");
    merges.push_back(left + ' ' + right);
  }
  out.add_texts("tokenizer.ggml.merges", merges);
  return notes;
}

/// Tokens in addition to the pieces of a SentencePiece model.
void add_tokens(const Json& config, const Json& added, const fs::path& folder, Vocabulary& v) {
  const auto place = [&](const fs::path& file, int64_t id, const std::string& text, bool special) {
    if (id < 0 || id > int64_t(v.tokens.size()) + 65536)
      throw FormatError(file, -1, fmt::format("token '{}' has id {}", text, id));
    const auto at = size_t(id);
    if (at >= v.tokens.size()) {
      v.tokens.resize(at + 1);
      v.types.resize(at + 1, kUnused);
      v.scores.resize(at + 1, kUnusedScore);
    }
    if (v.tokens[at] == text && v.types[at] != kUnused && v.types[at] != kNormal) return;  // the model knows it better
    v.tokens[at] = text;
    v.types[at] = special ? kControl : kUserDefined;
    v.scores[at] = kAddedScore;
  };
  const fs::path added_file = folder / "added_tokens.json", config_file = folder / "tokenizer_config.json";
  for (const auto& [text, id] : added.items()) {
    if (!id.is_number_integer()) throw FormatError(added_file, -1, fmt::format("the id of '{}' is no number", text));
    place(added_file, id.get<int64_t>(), text, false);
  }
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || !decoder->is_object()) return;
  for (const auto& [number, token] : decoder->items()) {
    const bool digits = !number.empty() && number.size() < 9 && number.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || !token.is_object() || !token.value("content", Json()).is_string()) {
      throw FormatError(config_file, -1, fmt::format("added_tokens_decoder's '{}' is no token", number));
    }
    place(config_file, std::stoll(number), token["content"].get<std::string>(), token.value("special", Json()) == true);
  }
}

std::vector<std::string> add_sentencepiece(const fs::path& file, int64_t vocabulary, GgufMetadata& out) {
  const SentencePieceVocabulary model = read_sentencepiece_vocabulary(read_file(file, int64_t{256} << 20), file);
  if (model.kind != SentencePieceVocabulary::Kind::bpe) {
    throw FormatError(file, -1, "only SentencePiece models of the kind BPE can be written as GGUF");
  }
  if (std::ranges::count(model.pieces, kByte, &SentencePieceVocabulary::Piece::type) != 256) {
    throw FormatError(file, -1, "has no 256 byte pieces, without which llama.cpp cannot encode every text");
  }
  std::vector<std::string> notes;
  if (model.normalises)
    notes.emplace_back("the SentencePiece model normalises text, which llama.cpp does not: ids of other text differ");
  if (model.remove_extra_whitespaces)
    notes.emplace_back("the SentencePiece model drops repeated spaces, which llama.cpp does not");
  const fs::path folder = file.parent_path();
  const Json config = read_json_if_there(folder / "tokenizer_config.json");
  Vocabulary v;
  for (const SentencePieceVocabulary::Piece& piece : model.pieces) {
    v.tokens.push_back(piece.text);
    v.types.push_back(piece.type);
    v.scores.push_back(piece.score);
  }
  v.bos = model.bos;
  v.eos = model.eos;
  v.unknown = model.unknown;
  v.padding = model.padding;
  add_tokens(config, read_json_if_there(folder / "added_tokens.json"), folder, v);
  const AddedTokenFiles files = read_added_token_files(folder);
  for (const auto& [name, id] : {std::pair("bos_token", &v.bos), {"eos_token", &v.eos}, {"pad_token", &v.padding}})
    if (const AddedTokenFiles::Named* named = files.find(name); named && named->token)
      if (const auto it = std::ranges::find(v.tokens, named->token->text); it != v.tokens.end()) *id = int32_t(it - v.tokens.begin());
  v.add_bos = adds_special(Json::object(), config, true, "", true);
  v.add_eos = adds_special(Json::object(), config, false, "", false);
  v.templates = read_chat_templates(folder, config);
  add_configured_ids(folder, v);
  add_notes(v, notes);
  complete(v, vocabulary, file);
  write(v, "llama", "default", out);
  out.add_bool("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix);
  return notes;
}

/// A SentencePiece model of the kind BPE as transformers saves it when no .model comes along: tokenizer.json with byte fallback,
/// where a piece's score is lost and its merge's rank is used instead. Nothing when the file is of another kind.
std::optional<Vocabulary> read_hf_pieces(const Json& root, const fs::path& file, bool& prefix) {
  const auto fail = [&](const std::string& cause) -> void { throw FormatError(file, -1, cause); };
  const Json model = root.value("model", Json());
  if (!model.is_object()) fail("it has no 'model', so it is no tokenizer.json");
  const Json vocab = model.value("vocab", Json()), merges = model.value("merges", Json());
  if (model.value("byte_fallback", Json()) != true || !vocab.is_object() || !merges.is_array()) return std::nullopt;
  // Spaces become U+2581 and, before the first word, one is added: by the normaliser, or by the pre-tokeniser Metaspace.
  const std::string text = root.value("normalizer", Json()).dump() + root.value("pre_tokenizer", Json()).dump();
  const bool metaspace = text.find("\"Metaspace\"") != std::string::npos;
  if (!metaspace && text.find("\"Replace\"") == std::string::npos) return std::nullopt;
  prefix =
      metaspace ? text.find("\"prepend_scheme\":\"never\"") == std::string::npos : text.find("\"Prepend\"") != std::string::npos;
  Vocabulary v;
  v.tokens.resize(vocab.size());
  v.types.assign(vocab.size(), kNormal);
  v.scores.assign(vocab.size(), -float(merges.size() + 1));  // what no merge makes comes last
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer() || id < 0 || id >= int64_t(vocab.size()))
      fail(fmt::format("the id of '{}' leaves the vocabulary", token));
    const auto at = id.get<size_t>();
    if (!v.tokens[at].empty()) fail(fmt::format("two tokens have the id {}", at));
    v.tokens[at] = token;
    if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')) v.types[at] = kByte;
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Json& merge = merges[rank];
    std::string whole;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      whole = merge[0].get<std::string>() + merge[1].get<std::string>();
    } else if (merge.is_string()) {
      whole = merge.get<std::string>();
      if (const size_t space = whole.find(' '); space != std::string::npos) whole.erase(space, 1);
    }
    const auto it = vocab.find(whole);
    if (it == vocab.end()) fail(fmt::format("merge {} makes no token", rank));
    float& score = v.scores[it->get<size_t>()];
    score = std::max(score, -float(rank));
  }
  if (const Json unknown = model.value("unk_token", Json()); unknown.is_string() && vocab.contains(unknown.get<std::string>())) {
    v.unknown = vocab[unknown.get<std::string>()].get<int32_t>();
    v.types[size_t(v.unknown)] = kUnknown;
  }
  return v;
}

std::vector<std::string> add_hf_pieces(Vocabulary v, const Json& root, bool prefix, const fs::path& file, int64_t vocabulary,
                                       GgufMetadata& out) {
  if (std::ranges::count(v.types, kByte) != 256)
    throw FormatError(file, -1, "has no 256 byte tokens, without which llama.cpp cannot encode every text");
  const fs::path folder = file.parent_path();
  const Json config = read_json_if_there(folder / "tokenizer_config.json");
  Json added = Json::object();
  for (const Json& token : root.value("added_tokens", Json::array())) {
    if (token.is_object() && token.contains("id")) added[token["id"].dump()] = token;
  }
  add_tokens(Json{{"added_tokens_decoder", added}}, Json::object(), folder, v);
  const auto named = [&](const char* name) {
    Json token = config.value(name, Json());
    if (token.is_object()) token = token.value("content", Json());
    const auto it = token.is_string() ? std::ranges::find(v.tokens, token.get<std::string>()) : v.tokens.end();
    return it == v.tokens.end() ? -1 : int32_t(it - v.tokens.begin());
  };
  v.bos = named("bos_token");
  v.eos = named("eos_token");
  v.padding = named("pad_token");
  add_configured_ids(folder, v);
  const auto text = [&](int32_t id) { return id >= 0 ? v.tokens[size_t(id)] : std::string(); };
  v.add_bos = adds_special(root, config, true, text(v.bos), true);
  v.add_eos = adds_special(root, config, false, text(v.eos), false);
  v.templates = read_chat_templates(folder, config);
  std::vector<std::string> notes;
  add_notes(v, notes);
  complete(v, vocabulary, file);
  write(v, "llama", "default", out);
  out.add_bool("tokenizer.ggml.add_space_prefix", prefix);
  return notes;
}

std::vector<std::string> copy_vocabulary(const fs::path& file, int64_t vocabulary, GgufMetadata& out) {
  const GgufFile gguf(file);
  for (const auto& [key, value] : gguf.metadata()) {
    if (key == "tokenizer.ggml.tokens" && value.count != vocabulary) {
      throw FormatError(file, -1, fmt::format("has {} tokens; the model's embedding has {} rows", value.count, vocabulary));
    }
    if (key.starts_with("tokenizer.")) out.add_copy(key, value);
  }
  if (!out.has("tokenizer.ggml.model")) throw FormatError(file, -1, "has no key 'tokenizer.ggml.model'");
  return {};
}

std::optional<fs::path> sentencepiece_of(const fs::path& folder) {
  if (fs::exists(folder / "tokenizer.model")) return folder / "tokenizer.model";
  std::vector<fs::path> models;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".model") models.push_back(entry.path());
  }
  if (models.size() > 1)
    throw FormatError(folder, -1, "has several .model files; that of the tokenizer is called tokenizer.model");
  return models.empty() ? std::nullopt : std::optional(models[0]);
}

}  // namespace

std::vector<std::string> add_gguf_vocabulary(const fs::path& checkpoint, int64_t vocabulary, GgufMetadata& out) {
  if (const std::optional<fs::path> gguf = gguf_of(checkpoint)) return copy_vocabulary(*gguf, vocabulary, out);
  const std::optional<fs::path> pieces = sentencepiece_of(checkpoint);
  const fs::path json = checkpoint / "tokenizer.json";
  if (fs::exists(json) && !pieces) {
    const Json root = read_json(json);
    bool prefix = false;
    if (!root.is_object()) throw FormatError(json, 0, "is not a JSON object");
    if (std::optional<Vocabulary> v = read_hf_pieces(root, json, prefix))
      return add_hf_pieces(std::move(*v), root, prefix, json, vocabulary, out);
    return add_bpe(read_tokenizer_json(json), json, vocabulary, out);
  }
  if (fs::exists(json)) {
    std::optional<BpeDefinition> definition;
    try {
      definition = read_tokenizer_json(json);
    } catch (const AddedTokenError&) {
      throw;
    } catch (const FormatError&) {  // then it is the SentencePiece model in Hugging Face's spelling
    }
    if (definition) return add_bpe(*definition, json, vocabulary, out);
  }
  if (pieces) return add_sentencepiece(*pieces, vocabulary, out);
  out.add_text("tokenizer.ggml.model", "none");
  return {"the model has no tokenizer: llama.cpp will read and write ids only"};
}

bool adds_begin_token(const fs::path& checkpoint, const Tokenizer& tokenizer) {
  if (tokenizer.bos_id() < 0) return false;
  if (const std::optional<fs::path> file = gguf_of(checkpoint)) {
    const GgufFile gguf(*file);
    return gguf.boolean("tokenizer.ggml.add_bos_token", gguf.text("tokenizer.ggml.model", "") == "llama");
  }
  if (!fs::is_directory(checkpoint)) return false;
  const fs::path json = checkpoint / "tokenizer.json";
  const Json config = read_json_if_there(checkpoint / "tokenizer_config.json");
  if (!fs::exists(json)) return adds_special(Json::object(), config, true, "", true);  // SentencePiece
  const Json root = read_json(json);
  if (!root.is_object()) throw FormatError(json, 0, "is not a JSON object");
  return adds_special(root, config, true, tokenizer.token_text(tokenizer.bos_id()), false);
}

}  // namespace overproof
