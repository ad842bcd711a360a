#include "formats/teacher_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/json_object.h"
#include "core/utf8.h"

namespace overproof {
namespace {

constexpr double kLogSlack = 1e-3;   // servers round: a log-probability of 0.0004 is 0
constexpr double kMassSlack = 0.01;  // of a sum of probabilities
constexpr std::string_view kIdPrefix = "token_id:";

/// The text of a token that is no whole character, as servers write it.
std::string without_ill_formed(std::string_view bytes) {
  std::string kept;
  while (!bytes.empty()) {
    const Utf8Char c = decode_utf8(bytes);
    if (c.valid) kept += bytes.substr(0, size_t(c.bytes));
    bytes.remove_prefix(size_t(c.bytes));
  }
  return kept;
}

class Reader {
 public:
  Reader(const AnswerShape& shape, const std::string& origin) : shape_(shape), origin_(origin) {}

  [[noreturn]] void fail(const std::string& cause) const { throw FormatError(origin_, -1, cause); }

  int32_t checked_id(int64_t id) const {
    if (id < 0 || id >= shape_.vocab_size)
      fail(fmt::format("names token {}, but the vocabulary has {} ids; the server runs another model or tokenizer", id, shape_.vocab_size));
    return int32_t(id);
  }

  int32_t id_of(std::string_view text) const {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc() || end != text.data() + text.size()) fail(fmt::format("'{}' is no token id", to_valid_utf8(text.substr(0, 40))));
    return checked_id(id);
  }

  /// -1: it names none.
  int32_t id_of_text(const std::string& text) const {
    if (std::string_view(text).starts_with(kIdPrefix)) return id_of(std::string_view(text).substr(kIdPrefix.size()));
    return shape_.names ? shape_.names->find(text) : -1;
  }

  void add(AnsweredRow& row, int32_t id, const Json& log, size_t position) const {
    if (!log.is_number()) fail(fmt::format("position {}: a log-probability is no number", position));
    row.ids.push_back(id);
    row.logs.push_back(float(log.get<double>()));
  }

  /// `others`: probability of entries that name no id.
  void finish(AnsweredRow& row, size_t position, double others) const {
    if (const std::string fault = tidy_row(row, shape_.top, others); !fault.empty()) fail(fmt::format("position {}: {}", position, fault));
  }

  /// {text or id: log-probability}
  AnsweredRow row_of_texts(const Json& entries, size_t position, int64_t& unnamed) const {
    if (!entries.is_object()) fail(fmt::format("position {}: is no object of tokens", position));
    AnsweredRow row;
    double others = 0;
    for (const auto& [text, log] : entries.items()) {
      const int32_t id = id_of_text(text);
      add(row, id, log, position);
      if (id >= 0) continue;
      if (!(row.logs.back() <= kLogSlack)) fail(fmt::format("position {}: {} is no log-probability", position, row.logs.back()));
      others += std::exp(double(row.logs.back()));
      row.ids.pop_back();
      row.logs.pop_back();
      ++unnamed;
    }
    finish(row, position, others);
    return row;
  }

  void require_prompt(std::span<const int32_t> found) const {
    if (std::ranges::equal(found, shape_.prompt)) return;
    const auto at = std::ranges::mismatch(found, shape_.prompt).in1 - found.begin();
    fail(fmt::format("the server scored other tokens than were sent: {} of {}, the first that differs is token {}", found.size(),
                     shape_.prompt.size(), at));
  }
  /// `list` has an element for each token of the prompt, and maybe for tokens that were generated.
  const Json& list_of_prompt(const JsonObject& in, std::string_view name, bool longer) const {
    const Json& list = in.list(name);
    if (list.size() < shape_.prompt.size() || (!longer && list.size() > shape_.prompt.size()))
      fail(fmt::format("'{}' has {} positions, the prompt {} tokens", name, list.size(), shape_.prompt.size()));
    return list;
  }

  const AnswerShape& shape() const { return shape_; }

 private:
  const AnswerShape& shape_;
  const std::string& origin_;
};

/// The only choice: with two, it is not known which of them is the answer.
JsonObject only_choice(const JsonObject& answer, const Reader& reader) {
  const std::vector<JsonObject> choices = answer.objects("choices");
  if (choices.size() != 1) reader.fail(fmt::format("has {} choices; one was asked for", choices.size()));
  return choices[0];
}

std::vector<int32_t> ids_in(const Json& list, const Reader& reader) {
  if (!list.is_array()) reader.fail("a list of token ids is none");
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer()) reader.fail("a token id is no whole number");
    ids.push_back(reader.checked_id(id.get<int64_t>()));
  }
  return ids;
}

void read_vllm(const JsonObject& json, const Reader& reader, TeacherAnswer& answer) {
  const JsonObject choice = only_choice(json, reader);
  if (const Json* ids = choice.find("prompt_token_ids"); ids && !ids->is_null()) reader.require_prompt(ids_in(*ids, reader));
  const Json& positions = reader.list_of_prompt(choice, "prompt_logprobs", false);
  if (!positions[0].is_null()) reader.fail("the first position of 'prompt_logprobs' is not null");
  const auto prompt = reader.shape().prompt;
  for (size_t i = 1; i < prompt.size(); ++i) {
    if (!positions[i].is_object()) reader.fail(fmt::format("position {}: is no object of tokens", i));
    AnsweredRow row;
    bool has_own = false;
    for (const auto& [text, entry] : positions[i].items()) {
      const int32_t id = reader.id_of(text);
      has_own |= id == prompt[i];
      if (!entry.is_object() || !entry.contains("logprob")) reader.fail(fmt::format("position {}: token {} has no 'logprob'", i, id));
      reader.add(row, id, entry["logprob"], i);
    }
    if (!has_own) reader.fail(fmt::format("position {}: has no log-probability of the prompt's own token {}", i, prompt[i]));
    reader.finish(row, i, 0);
    answer.rows.push_back(std::move(row));
  }
}

/// [log-probability, id, text or null]
void read_triple(const Json& triple, size_t position, const Reader& reader, AnsweredRow& row) {
  if (!triple.is_array() || triple.size() < 2 || !triple[1].is_number_integer())
    reader.fail(fmt::format("position {}: an entry is not [log-probability, id, text]", position));
  reader.add(row, reader.checked_id(triple[1].get<int64_t>()), triple[0], position);
}

void read_sglang(const JsonObject& json, const Reader& reader, TeacherAnswer& answer) {
  const JsonObject meta = json.object("meta_info");
  const Json& own = reader.list_of_prompt(meta, "input_token_logprobs", false);
  std::vector<int32_t> prompt;
  for (const Json& triple : own) {
    if (!triple.is_array() || triple.size() < 2 || !triple[1].is_number_integer()) reader.fail("'input_token_logprobs' has no token ids");
    prompt.push_back(reader.checked_id(triple[1].get<int64_t>()));
  }
  reader.require_prompt(prompt);
  const Json& positions = reader.list_of_prompt(meta, "input_top_logprobs", false);
  if (!positions[0].is_null() && !(positions[0].is_array() && positions[0].empty()))
    reader.fail("the first position of 'input_top_logprobs' is not null");
  for (size_t i = 1; i < prompt.size(); ++i) {
    if (!positions[i].is_array()) reader.fail(fmt::format("position {}: is no list of tokens", i));
    AnsweredRow row;
    for (const Json& triple : positions[i]) read_triple(triple, i, reader, row);
    reader.finish(row, i, 0);
    answer.rows.push_back(std::move(row));
  }
}

/// Whether the texts of the prompt's tokens are those of the ids that were asked about.
bool same_tokens(const Json& tokens, const Reader& reader) {
  const auto prompt = reader.shape().prompt;
  const TokenNames* names = reader.shape().names;
  if (tokens.size() < prompt.size()) return false;
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (!tokens[i].is_string()) reader.fail(fmt::format("token {} is no text", i));
    const auto& text = tokens[i].get_ref<const std::string&>();
    const bool by_id = std::string_view(text).starts_with(kIdPrefix);
    if (by_id ? reader.id_of_text(text) != prompt[i] : !names || !names->may_be(text, prompt[i])) return false;
  }
  return true;
}

void read_echo(const JsonObject& json, const Reader& reader, TeacherAnswer& answer) {
  const JsonObject logprobs = only_choice(json, reader).object("logprobs");
  const Json &tokens = logprobs.list("tokens"), &positions = logprobs.list("top_logprobs");
  if (positions.size() != tokens.size()) reader.fail("'tokens' and 'top_logprobs' have different lengths");
  const auto& shape = reader.shape();
  if (!same_tokens(tokens, reader) || (answer.prompt_tokens >= 0 && answer.prompt_tokens != int64_t(shape.prompt.size()))) {
    answer.other_tokens = true;
    answer.rows.resize(shape.prompt.size() - 1);
    return;
  }
  if (!positions[0].is_null() && !(positions[0].is_object() && positions[0].empty()))
    reader.fail("the first position of 'top_logprobs' is not null");
  const size_t first = shape.shifted ? 0 : 1;
  for (size_t i = 0; i + 1 < shape.prompt.size(); ++i)
    answer.rows.push_back(first + i == 0 ? AnsweredRow{} : reader.row_of_texts(positions[first + i], first + i, answer.unnamed));
}

void read_llama(const JsonObject& json, const Reader& reader, TeacherAnswer& answer) {
  const std::vector<JsonObject> positions = json.objects("completion_probabilities");
  if (positions.empty()) reader.fail("'completion_probabilities' is empty");
  AnsweredRow row;
  for (const JsonObject& entry : positions[0].objects("top_logprobs"))
    reader.add(row, reader.checked_id(entry.integer("id", INT32_MIN, INT32_MAX)), entry.at("logprob"), 0);
  reader.finish(row, 0, 0);
  answer.rows.push_back(std::move(row));
  const int64_t evaluated = json.integer("tokens_evaluated", 0, INT32_MAX, -1);
  if (evaluated >= 0 && evaluated != int64_t(reader.shape().prompt.size()))
    reader.fail(fmt::format("the server read {} tokens, {} were sent", evaluated, reader.shape().prompt.size()));
  answer.prompt_tokens = evaluated;
  answer.completion_tokens = json.integer("tokens_predicted", 0, INT32_MAX, -1);
}

void read_completions(const JsonObject& json, const Reader& reader, TeacherAnswer& answer) {
  const Json& positions = only_choice(json, reader).object("logprobs").list("top_logprobs");
  if (positions.empty()) reader.fail("'top_logprobs' is empty");
  answer.rows.push_back(reader.row_of_texts(positions[0], 0, answer.unnamed));
}

void read_usage(const JsonObject& json, TeacherAnswer& answer) {
  if (const Json* usage = json.find("usage"); usage && usage->is_object()) {
    const JsonObject counts = json.object("usage");
    answer.prompt_tokens = counts.integer("prompt_tokens", 0, INT64_MAX, -1);
    answer.completion_tokens = counts.integer("completion_tokens", 0, INT64_MAX, -1);
  } else if (const Json* meta = json.find("meta_info"); meta && meta->is_object()) {
    const JsonObject counts = json.object("meta_info");
    answer.prompt_tokens = counts.integer("prompt_tokens", 0, INT64_MAX, -1);
    answer.completion_tokens = counts.integer("completion_tokens", 0, INT64_MAX, -1);
  }
  if (const Json* model = json.find("model"); model && model->is_string()) answer.model = model->get<std::string>();
}

}  // namespace

std::string tidy_row(AnsweredRow& row, int64_t top, double others) {
  std::vector<size_t> order(row.ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  double mass = others;
  for (float& log : row.logs) {
    if (!std::isfinite(log) || double(log) > kLogSlack) return fmt::format("{} is no log-probability", log);
    log = std::min(log, 0.0f);
    mass += std::exp(double(log));
  }
  if (mass > 1 + kMassSlack) return fmt::format("probabilities sum to {:.4f}", mass);
  std::ranges::sort(order, [&](size_t a, size_t b) { return row.ids[a] < row.ids[b]; });
  for (size_t i = 1; i < order.size(); ++i)
    if (row.ids[order[i]] == row.ids[order[i - 1]]) return fmt::format("token {} is there twice", row.ids[order[i]]);
  if (int64_t(order.size()) > top) {  // vLLM adds the prompt's own token
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return row.logs[a] > row.logs[b]; });
    order.resize(size_t(top));
    std::ranges::sort(order, [&](size_t a, size_t b) { return row.ids[a] < row.ids[b]; });
  }
  AnsweredRow sorted;
  for (const size_t i : order) sorted.ids.push_back(row.ids[i]), sorted.logs.push_back(row.logs[i]);
  row = std::move(sorted);
  return "";
}

TokenNames::TokenNames(std::vector<std::string> bytes, std::vector<int32_t> special)
    : bytes_(std::move(bytes)), special_(std::move(special)) {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (bytes_[id].empty()) continue;
    const bool whole = invalid_utf8_at(bytes_[id]) < 0;
    const auto add = [&](const std::string& text, int32_t value) {
      if (const auto [found, is_new] = ids_.emplace(text, value); !is_new) found->second = -1;
    };
    if (whole) {
      add(bytes_[id], int32_t(id));
    } else {
      ids_[to_valid_utf8(bytes_[id])] = -1;
      ids_[without_ill_formed(bytes_[id])] = -1;
    }
  }
  ids_[""] = -1;
}

bool TokenNames::may_be(std::string_view text, int32_t id) const {
  if (id < 0 || size_t(id) >= bytes_.size()) return false;
  const std::string& bytes = bytes_[size_t(id)];
  if (text.empty()) return std::ranges::binary_search(special_, id);
  return text == bytes || (invalid_utf8_at(bytes) >= 0 && (text == to_valid_utf8(bytes) || text == without_ill_formed(bytes)));
}

int32_t TokenNames::find(std::string_view text) const {
  const auto found = ids_.find(std::string(text));
  return found == ids_.end() ? -1 : found->second;
}

TeacherAnswer parse_teacher_answer(std::string_view body, const AnswerShape& shape, const std::string& origin) {
  OVERPROOF_CHECK(shape.prompt.size() >= 1 && shape.top >= 1);
  const Json json = parse_json(body, origin);
  const JsonObject object(json, origin, "", JsonNull::absent);
  const Reader reader(shape, origin);
  TeacherAnswer answer;
  read_usage(object, answer);
  switch (shape.dialect) {
    case Dialect::vllm: read_vllm(object, reader, answer); break;
    case Dialect::sglang: read_sglang(object, reader, answer); break;
    case Dialect::echo: read_echo(object, reader, answer); break;
    case Dialect::llama: read_llama(object, reader, answer); break;
    case Dialect::completions: read_completions(object, reader, answer); break;
  }
  // A server that adds or drops tokens scores another text.
  if (!answer.other_tokens && answer.prompt_tokens >= 0 && answer.prompt_tokens != int64_t(shape.prompt.size()))
    reader.fail(fmt::format("the server counts {} tokens in the prompt, {} were sent; it may add a token before the text", answer.prompt_tokens,
                            shape.prompt.size()));
  return answer;
}

ChatAnswer parse_chat_answer(std::string_view body, const std::string& origin) {
  const Json json = parse_json(body, origin);
  const JsonObject object(json, origin, "", JsonNull::absent);
  const auto choices = object.objects("choices");
  if (choices.empty()) object.fail("choices", "is empty");
  ChatAnswer answer{.text = choices.front().object("message").text("content", "")};  // null where the server wrote nothing
  TeacherAnswer usage;
  read_usage(object, usage);
  answer.model = usage.model;
  answer.prompt_tokens = usage.prompt_tokens;
  answer.completion_tokens = usage.completion_tokens;
  return answer;
}

std::string server_error_text(std::string_view body) {
  std::string text;
  try {
    const Json json = parse_json(body, "answer");
    const Json* at = &json;
    if (at->is_object() && at->contains("error")) at = &(*at)["error"];
    for (const char* name : {"message", "detail"})
      if (at->is_object() && at->contains(name)) {
        at = &(*at)[name];
        break;
      }
    text = at->is_string() ? at->get<std::string>() : dump_text(*at);
  } catch (const FormatError&) {
    text = body;
  }
  text = to_valid_utf8(text.substr(0, 300));
  for (char& c : text)
    if (uint8_t(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

}  // namespace overproof
