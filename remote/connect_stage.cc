#include "remote/connect_stage.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "data/tokenizer.h"
#include "data/tokenizer_files.h"

namespace overproof {
namespace {

constexpr size_t kMostProbeBytes = size_t{64} << 20;
// They differ in one word: what a server answers for the tokens before it must be the same for both.
constexpr const char *kText = "The river is long and the boat is small, so we wait here.",
                     *kOtherText = "The river is long and the house is small, so we wait here.";

/// What one way of asking gave.
struct Trial {
  std::string way, why;  ///< why: "" where it works
};

class Probe {
 public:
  Probe(const ConnectConfig& config, const Tokenizer& tokenizer)
      : config_(config), tokenizer_(tokenizer), names_(token_names(tokenizer)), key_(server_key(config.key_variable)) {
    base_.url = config.url;
    while (base_.url.ends_with('/')) base_.url.pop_back();
    base_.model = config.model;
    base_.auth = config.auth;
    base_.api_version = config.api_version;
    base_.region = config.region;
    base_.vocab_size = config.vocab_size > 0 ? config.vocab_size : tokenizer.vocab_size();
    tokenizer.encode(kText, text_);
    tokenizer.encode(kOtherText, other_);
    same_ = size_t(std::ranges::mismatch(text_, other_).in1 - text_.begin());
    if (same_ < 2 || std::min(text_.size(), other_.size()) < same_ + 3)
      throw MismatchError("the tokenizer cuts the probe's texts into too few tokens to test a server with");
  }

  RemoteTeacher find() {
    if (config_.dialect == AskedDialect::offline) return base_;
    list_models();
    struct Way {
      AskedDialect asked;
      Dialect dialect;
      bool ids;
    };
    const Way ways[] = {{AskedDialect::vllm, Dialect::vllm, true},         {AskedDialect::sglang, Dialect::sglang, true},
                        {AskedDialect::echo, Dialect::echo, true},         {AskedDialect::echo, Dialect::echo, false},
                        {AskedDialect::llama, Dialect::llama, true},       {AskedDialect::completions, Dialect::completions, true},
                        {AskedDialect::completions, Dialect::completions, false}};
    for (const Way& way : ways) {
      if (config_.dialect != AskedDialect::automatic && config_.dialect != way.asked) continue;
      RemoteTeacher teacher = base_;
      teacher.dialect = way.dialect;
      teacher.sends_ids = way.ids;
      trials_.push_back({fmt::format("{} ({})", dialect_name(way.dialect), way.ids ? "ids" : "text"), ""});
      if (works(teacher)) return teacher;
    }
    if (config_.dialect == AskedDialect::automatic || config_.dialect == AskedDialect::text) {
      RemoteTeacher teacher = base_;
      trials_.push_back({"text", ""});
      if (writes_text(teacher)) return teacher;
    }
    std::string list;
    for (const Trial& trial : trials_) list += fmt::format("\n  {}: {}", trial.way, trial.why);
    throw MismatchError(fmt::format("{}: the server gives nothing that can be used:{}", url_without_secrets(base_.url), list));
  }

  const std::vector<Trial>& trials() const { return trials_; }
  int64_t requests() const { return requests_; }

 private:
  HttpAnswer send(HttpRequest request) {
    throw_if_interrupted();
    request.limits = {10'000, long(config_.timeout * 1000), kMostProbeBytes};
    ++requests_;
    HttpAnswer answer = session_.send(request);
    throw_if_interrupted();
    if (answer.status == 0) throw IoError(url_without_secrets(request.url), without_key(answer.problem, key_), 0);
    if (answer.status == 401 || answer.status == 403)
      throw IoError(url_without_secrets(request.url),
                    fmt::format("refuses the key (HTTP status {}: {}); put it into the environment variable {}, and see --auth", answer.status,
                                without_key(server_error_text(answer.body), key_), config_.key_variable),
                    0);
    return answer;
  }

  /// Servers without such a list are taken as they are.
  void list_models() {
    const HttpAnswer answer = send(get_request(base_, key_, "/models"));
    if (answer.status != 200) return;
    std::vector<std::string> ids;
    try {
      const Json json = parse_json(answer.body, "the list of models");
      const JsonObject object(json, "the list of models", "", JsonNull::absent);
      for (const JsonObject& model : object.objects_or_empty("data")) ids.push_back(model.text("id", ""));
    } catch (const FormatError&) {
      return;
    }
    if (ids.empty() || base_.model.empty() || std::ranges::find(ids, base_.model) != ids.end()) return;
    if (ids.size() > 10) ids.resize(10);
    throw MismatchError(fmt::format("{}: has no model '{}'; it has {}", url_without_secrets(base_.url), base_.model, fmt::join(ids, ", ")));
  }

  std::optional<TeacherAnswer> ask(const RemoteTeacher& teacher, const std::vector<int32_t>& ids, bool& too_many) {
    const std::string text = tokenizer_.decode(ids);
    const HttpAnswer answer = send(score_request(teacher, key_, ids, text).http);
    Trial& trial = trials_.back();
    too_many = false;
    if (answer.status != 200 || answer.cut) {
      too_many = answer.status == 400 || answer.status == 422;
      trial.why = answer.cut ? "its answer is too long" : fmt::format("HTTP status {}: {}", answer.status, without_key(server_error_text(answer.body), key_));
      return std::nullopt;
    }
    try {
      TeacherAnswer parsed = parse_teacher_answer(answer.body,
                                                  {.dialect = *teacher.dialect,
                                                   .prompt = ids,
                                                   .top = teacher.top_k,
                                                   .vocab_size = teacher.vocab_size,
                                                   .shifted = teacher.shifted,
                                                   .names = &names_},
                                                  "the answer");
      if (parsed.other_tokens) {
        trial.why = "the server cuts texts into other tokens than this tokenizer, or adds some";
        return std::nullopt;
      }
      return parsed;
    } catch (const FormatError& e) {
      trial.why = without_key(e.what(), key_);
      return std::nullopt;
    }
  }

  bool works(RemoteTeacher& teacher) {
    std::vector<int64_t> tops = {config_.top_k};
    for (const int64_t cap : {20, 10, 5, 1})
      if (cap < config_.top_k) tops.push_back(cap);
    std::optional<TeacherAnswer> first;
    for (const int64_t top : tops) {
      teacher.top_k = top;
      bool too_many = false;
      first = ask(teacher, text_, too_many);
      if (first || !too_many) break;
    }
    if (!first) return false;
    bool ignored = false;
    const std::optional<TeacherAnswer> second = ask(teacher, other_, ignored);
    if (!second) return false;
    teacher.answers_as = first->model;
    if (second->model != first->model) return fault(fmt::format("it answers as '{}' and then as '{}'", first->model, second->model));
    const bool by_text = teacher.dialect == Dialect::completions || (teacher.dialect == Dialect::echo && !teacher.sends_ids);
    size_t most = 0;
    for (const AnsweredRow& row : first->rows) most = std::max(most, row.ids.size());
    if (most == 0) return fault("its answers hold no log-probability that a token can be named for");
    if (!by_text) teacher.top_k = std::min<int64_t>(teacher.top_k, int64_t(most));
    return !scores_prompts(*teacher.dialect) || find_alignment(teacher, *first, *second);
  }

  bool fault(std::string why) {
    trials_.back().why = std::move(why);
    return false;
  }

  /// Mean difference between both answers in the log-probabilities of common ids; nothing where they have none.
  static std::optional<double> difference(const AnsweredRow& a, const AnsweredRow& b) {
    double sum = 0;
    int64_t common = 0;
    for (size_t i = 0; i < a.ids.size(); ++i)
      if (const auto found = std::ranges::lower_bound(b.ids, a.ids[i]); found != b.ids.end() && *found == a.ids[i]) {
        sum += std::abs(double(a.logs[i]) - double(b.logs[size_t(found - b.ids.begin())]));
        ++common;
      }
    return common > 0 ? std::optional(sum / double(common)) : std::nullopt;
  }

  /// Row i is what follows ids[0 .. i]. The texts are the same before id `same_`, so rows up to same_ - 1 are the same for both, and row
  /// same_ is not. A server whose list is one off (llama-cpp-python, where the model puts no token before a text) has at index i
  /// what follows id i, and is found by that.
  bool find_alignment(RemoteTeacher& teacher, const TeacherAnswer& first, const TeacherAnswer& second) {
    constexpr double kSame = 0.05, kOther = 0.1;
    const auto at = [&](size_t row) { return difference(first.rows[row], second.rows[row]); };
    const auto last_same = at(same_ - 1), first_other = at(same_), before = at(same_ - 2);
    const auto same = [](const std::optional<double>& d) { return d && *d <= kSame; };
    const auto other = [](const std::optional<double>& d) { return !d || *d > kOther; };
    if (same(last_same) && other(first_other)) return true;
    if (teacher.dialect == Dialect::echo && same(before) && other(last_same)) {
      teacher.shifted = true;
      return true;
    }
    const auto text = [](const std::optional<double>& d) { return d ? fmt::format("{:.4f}", *d) : std::string("no common id"); };
    return fault(fmt::format("its log-probabilities do not follow the tokens: before, at and after the first token that differs between two texts they "
                             "differ by {}, {} and {}",
                             text(before), text(last_same), text(first_other)));
  }

  bool writes_text(RemoteTeacher& teacher) {
    HttpRequest request = get_request(teacher, key_, "/chat/completions");
    Json body = {{"messages", {{{"role", "user"}, {"content", "Answer yes."}}}}, {"max_tokens", 8}};
    if (!teacher.model.empty()) body["model"] = teacher.model;
    request.body = dump_text(body);
    const HttpAnswer answer = send(request);
    if (answer.status != 200) return fault(fmt::format("HTTP status {}: {}", answer.status, without_key(server_error_text(answer.body), key_)));
    try {
      const Json json = parse_json(answer.body, "the answer");
      const JsonObject object(json, "the answer", "", JsonNull::absent);
      if (object.objects("choices").empty()) return fault("its answer has no choices");
      teacher.answers_as = object.text("model", "");
      teacher.top_k = 0;
      return true;
    } catch (const FormatError& e) {
      return fault(without_key(e.what(), key_));
    }
  }

  const ConnectConfig& config_;
  const Tokenizer& tokenizer_;
  const TokenNames names_;
  const std::string key_;
  RemoteTeacher base_;
  HttpSession session_;
  std::vector<int32_t> text_, other_;
  size_t same_ = 0;  // ids that both texts begin with
  std::vector<Trial> trials_;
  int64_t requests_ = 0;
};

void check_url(const ConnectConfig& config) {
  const std::string& url = config.url;
  if (url.empty() && config.dialect == AskedDialect::offline) return;
  if (url.empty()) throw UsageError("connect: --url is missing (base URL of the server, such as http://127.0.0.1:8000/v1)");
  if (!url.starts_with("http://") && !url.starts_with("https://")) throw UsageError("option 'url': must begin with http:// or https://");
  if (url_without_secrets(url) != url || url.find('#') != std::string::npos)
    throw UsageError("option 'url': has a user name, a password or a query; it goes into signed statements. Keys come from the environment "
                     "(--key-variable), the API version from --api-version");
  for (const char c : url + config.api_version)
    if (uint8_t(c) <= 0x20 || uint8_t(c) >= 0x7f) throw UsageError("option 'url': has a blank, a control character or one that is not ASCII");
  if (config.api_version.find_first_of("&#?") != std::string::npos) throw UsageError("option 'api-version': has a character of a query");
}

bool is_local(const std::string& url) {
  const std::string host = url.substr(std::string("http://").size());
  return host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]");
}

}  // namespace

StageReport run_connect(const ConnectConfig& config, const Inputs& inputs, Outputs& outputs) {
  check_url(config);
  const auto tokenizer = open_tokenizer(inputs.path("tokenizer"));
  if (config.vocab_size > 0 && config.vocab_size < tokenizer->vocab_size())
    throw UsageError(fmt::format("option 'vocab-size': the tokenizer has {} ids", tokenizer->vocab_size()));
  Probe probe(config, *tokenizer);
  const RemoteTeacher teacher = probe.find();
  outputs.folder().write_file(kServerFile, dump_text(teacher.to_json(), 1) + "\n");
  copy_tokenizer_files(inputs.path("tokenizer"), outputs.folder());

  StageReport report;
  Json trials = Json::array();
  for (const Trial& trial : probe.trials()) trials.push_back({{"way", trial.way}, {"works", trial.why.empty()}, {"why", trial.why}});
  report.metrics() = {{"probe", trials},
                      {"probe_requests", probe.requests()},
                      {"targets", targets_sentence(teacher)},
                      {"answers_as", teacher.answers_as},
                      {"evidence", "recorded"}};
  report.summary.push_back(fmt::format("{}{}", teacher.url.empty() ? "no server" : url_without_secrets(teacher.url), teacher.answers_as.empty() ? "" : fmt::format(" answers as '{}'", teacher.answers_as)));
  report.summary.push_back(config.dialect == AskedDialect::offline ? "nothing was sent: import-targets and import-samples take what it gave" : targets_sentence(teacher));
  for (const Trial& trial : probe.trials())
    if (!trial.why.empty()) report.summary.push_back(fmt::format("note: not by {}: {}", trial.way, trial.why));
  if (teacher.shifted) report.summary.push_back("note: its list of log-probabilities is one token off; that is allowed for, and the first token of a window has no targets");
  if (teacher.url.starts_with("http://") && !is_local(teacher.url)) report.summary.push_back("note: texts and the key go over the network unencrypted");
  if (config.license.empty()) report.summary.push_back("note: no licence is recorded; --license names the teacher's terms, which an export asks for");
  return report;
}

}  // namespace overproof
