#include "distill/teachers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "data/document_routes.h"
#include "data/tokenizer.h"
#include "formats/model_check.h"
#include "model/open_model.h"
#include "provenance/lineage_kinds.h"

namespace overproof {
namespace {

constexpr const char *kTargetsSlot = "targets", *kTeacherSlot = "teacher";

void require_same_origin(const SoftTargets& targets, const Corpus& corpus, const Inputs& inputs) {
  if (targets.corpus_root() != inputs.root("corpus"))
    throw MismatchError("the soft targets are of another corpus; run teach on this one");
  if (targets.order_key() != order_key(inputs.root("corpus"), targets.encoding().seed, targets.order_beacon()))
    throw MismatchError("the soft targets have another order of windows than corpus and seed give; run teach again");
  if (!targets.tokenizer().matches(corpus.tokenizer())) throw MismatchError("soft targets and corpus have different tokenizers");
  if (targets.window_length() != corpus.window_length())
    throw MismatchError(
        fmt::format("window lengths differ: soft targets {} tokens, corpus {}", targets.window_length(), corpus.window_length()));
  if (targets.blocks() > corpus.windows(Split::train))
    throw MismatchError(fmt::format("the soft targets cover {} windows, but the corpus has {} training windows", targets.blocks(),
                                    corpus.windows(Split::train)));
}

/// Opens teachers by name, each once.
class Opener {
 public:
  Opener(const Inputs& inputs, std::shared_ptr<const Corpus> corpus, std::shared_ptr<const SoftTargets> targets, AlignTokens align)
      : inputs_(inputs), corpus_(std::move(corpus)), targets_(std::move(targets)), align_(align) {}

  bool is_stored(const std::string& name) const { return fs::exists(soft_targets_file(inputs_.path(name))); }

  std::unique_ptr<TeacherSignal> open(const std::string& name) {
    return is_stored(name) ? stored_signal(stored(name), corpus_->windows(Split::train)) : alongside(name, targets_ ? targets_->temperature() : 1.0);
  }

  std::unique_ptr<TeacherSignal> alongside(const std::string& name, double temperature) {
    std::shared_ptr<const Decoder>& decoder = decoders_[name];
    if (!decoder) {
      if (fs::exists(inputs_.path(name) / "server.json"))
        throw UsageError(fmt::format("the teacher '{}' is a server, which cannot run alongside; make soft targets of it with `overproof capture`", name));
      std::shared_ptr<const Tokenizer>& tokenizer = tokenizers_[name] = open_tokenizer(inputs_.path(name));
      if (tokenizer->identity().matches(corpus_->tokenizer())) {
        tokenizer = nullptr;  // its ids are the student's
        decoder = std::make_shared<const Decoder>(open_model_for(*corpus_, inputs_, name));
      } else if (align_ == AlignTokens::none) {
        throw MismatchError(fmt::format("the teacher '{}' has another tokenizer than the corpus; give --align bytes, or make a corpus with its tokenizer", name));
      } else {
        const Checkpoint checkpoint = open_checkpoint(inputs_.path(name));
        check_model(checkpoint);
        decoder = std::make_shared<const Decoder>(checkpoint);
      }
    }
    const std::shared_ptr<const Tokenizer> other = tokenizers_.at(name);
    if (!other) return live_signal(decoder, temperature);
    if (!of_student_) of_student_ = open_tokenizer(inputs_.path("student"));
    return aligned_signal(decoder, other, of_student_);
  }

  /// Whether a teacher that was opened has another tokenizer.
  bool is_aligned(const std::string& name) const {
    const auto found = tokenizers_.find(name);
    return found != tokenizers_.end() && found->second;
  }

 private:
  /// The order of windows is that of the slot "targets", so other soft targets must have the same.
  std::shared_ptr<const SoftTargets> stored(const std::string& name) const {
    if (name == kTargetsSlot) return targets_;
    if (!targets_)
      throw UsageError(fmt::format("the teacher '{}' is soft targets, and the order of windows is not known; give those that fix it with --targets", name));
    auto targets = open_targets(*corpus_, inputs_, name);
    if (targets->order_key() != targets_->order_key() || targets->blocks() != targets_->blocks())
      throw MismatchError(fmt::format("the soft targets '{}' cover other windows than those in '{}' ({} and {}); teach both with one --seed and "
                                      "--tokens",
                                      name, kTargetsSlot, targets->blocks(), targets_->blocks()));
    return targets;
  }

  const Inputs& inputs_;
  std::shared_ptr<const Corpus> corpus_;
  std::shared_ptr<const SoftTargets> targets_;
  AlignTokens align_;
  std::map<std::string, std::shared_ptr<const Decoder>> decoders_;
  std::map<std::string, std::shared_ptr<const Tokenizer>> tokenizers_;  // of decoders; null where it is the student's
  std::shared_ptr<const Tokenizer> of_student_;
};

/// The first windows, so that a tokenizer that changes texts is refused before the first step. Adds the share of rows that are compared.
void require_aligned_text(const std::string& name, const TeacherSignal& signal, const std::shared_ptr<const Corpus>& corpus, Json& fact) {
  constexpr int64_t kWindows = 4;
  constexpr double kLeastShare = 0.2;
  const int64_t windows = std::min(corpus->windows(Split::train), kWindows);
  const TokenBatch batch = WindowBatches(corpus, Split::train, [](int64_t position) { return position; }, windows, 1).at(0);
  int64_t rows = 0;
  size_t common = 0;
  for (const Targets& targets : signal.rows(batch, 0, windows)) {
    for (const TokenSpan& span : targets.aligned->spans) rows += span.a_end - span.a_begin;
    common = targets.aligned->common->size();
  }
  const double share = double(rows) / double(batch.tokens());
  if (share < kLeastShare)
    throw MismatchError(fmt::format("the tokenizer of the teacher '{}' agrees with the student's in {:.1f} % of the first {} windows; it changes the text "
                                    "(normalisation), so that bytes cannot be compared. Distil from texts that it writes instead: `overproof sample`",
                                    name, 100 * share, windows));
  fact["aligned_share"] = share;
  fact["common_ids"] = common;
}

std::map<std::string, double> mixture_of(const DistillConfig& config, const std::vector<std::string>& known) {
  std::map<std::string, double> shares;
  if (!config.teachers.mix.empty()) {
    for (const auto& [name, text] : config.teachers.mix) {
      if (std::ranges::find(known, name) == known.end())
        throw UsageError(fmt::format("option 'mix': there is no teacher '{}'; there are {}", name, fmt::join(known, ", ")));
      const auto share = number_in(text, 0, 1e6);
      if (!share) throw UsageError(fmt::format("option 'mix': the share of '{}' is '{}', not a number from 0 to 1000000", name, text));
      if (*share == 0) throw UsageError(fmt::format("option 'mix': with share 0, '{}' teaches nothing, and the lineage would name it; leave it out", name));
      shares[name] = *share;
    }
    if (shares.empty()) throw UsageError("option 'mix': at least one teacher needs a share above 0");
    return shares;
  }
  const auto is_known = [&](const char* name) { return std::ranges::find(known, name) != known.end(); };
  if (!is_known(kTargetsSlot) && !is_known(kTeacherSlot))
    throw UsageError("there is nothing to learn from; give soft targets with --targets, or a model that runs alongside with --teacher");
  if (!is_known(kTargetsSlot)) return {{kTeacherSlot, 1.0}};
  const double share = is_known(kTeacherSlot) ? config.teacher_share : 0.0;
  if (share < 1) shares[kTargetsSlot] = 1 - share;
  if (share > 0) shares[kTeacherSlot] = share;
  return shares;
}

std::unique_ptr<TeacherSignal> mixed(const std::map<std::string, double>& shares, const auto& open) {
  if (shares.size() == 1) return open(shares.begin()->first);
  std::vector<WeightedSignal> parts;
  // Soft targets first: the order of sums, which steps of earlier versions have.
  for (const bool first : {true, false})
    for (const auto& [name, share] : shares)
      if ((name == kTargetsSlot) == first) parts.emplace_back(share, open(name));
  return mixed_signal(std::move(parts));
}

/// The names of all teachers. Those of the user's choice must not be ones that audits know as something else.
std::vector<std::string> names_in(const Inputs& inputs, const DistillConfig& config) {
  std::vector<std::string> names;
  bool further = false;
  for (const auto& [slot, artifact] : inputs.all()) {
    if (slot == "student" || slot == "corpus" || slot == "tasks" || slot == "command") continue;
    names.push_back(slot);
    if (slot == kTargetsSlot || slot == kTeacherSlot) continue;
    further = true;
    if (role_in_slot(slot)) throw UsageError(fmt::format("a teacher cannot be called '{}', which is the name of another input; choose another", slot));
  }
  const bool mixes = !config.teachers.mix.empty(), routes = config.teachers.route_by != RouteField::none;
  if (mixes && routes) throw UsageError("options 'mix' and 'route-by' both choose teachers; give one of them");
  if (!routes && !config.teachers.routes.empty()) throw UsageError("option 'routes' needs 'route-by': source, license or teacher");
  if ((mixes || routes) && config.teacher_share != kUsualTeacherShare)
    throw UsageError(fmt::format("options 'teacher-share' and '{}' both set the share of a teacher; give one of them", mixes ? "mix" : "route-by"));
  if (further && !mixes && !routes)
    throw UsageError(fmt::format("there are several teachers ({}); give --mix or --route-by, which choose between them", fmt::join(names, ", ")));
  return names;
}

}  // namespace

std::shared_ptr<const SoftTargets> open_targets(const Corpus& corpus, const Inputs& inputs, const std::string& slot) {
  auto targets = std::make_shared<const SoftTargets>(inputs.path(slot));
  require_same_origin(*targets, corpus, inputs);
  return targets;
}

Teachers open_teachers(const DistillConfig& config, const Inputs& inputs, const std::shared_ptr<const Corpus>& corpus,
                       const std::shared_ptr<const SoftTargets>& targets) {
  const std::vector<std::string> names = names_in(inputs, config);
  const bool measures = config.evaluate_every > 0;
  Opener opener(inputs, corpus, targets, config.align);
  const auto in_training = [&](const std::string& name) { return opener.open(name); };
  const auto in_evaluations = [&](const std::string& name) { return opener.alongside(name, 1.0); };
  Teachers result;
  Json list = Json::array();
  const auto add = [&](const std::string& name, const TeacherSignal& signal, Json more) {
    Json fact = {{"name", name}, {"kind", opener.is_stored(name) ? "soft targets" : "alongside"}, {"evidence", evidence_name(signal.evidence())}};
    if (opener.is_aligned(name)) require_aligned_text(name, signal, corpus, fact);
    fact.update(more);
    list.push_back(std::move(fact));
  };
  const auto all_alongside = [&](const auto& used) { return std::ranges::none_of(used, [&](const std::string& name) { return opener.is_stored(name); }); };
  if (config.teachers.route_by == RouteField::none) {
    const std::map<std::string, double> shares = mixture_of(config, names);
    std::vector<std::string> used;
    double sum = 0;
    for (const auto& [name, share] : shares) used.push_back(name), sum += share;
    for (const std::string& name : names)  // "targets" fixes the order, "teacher" may only measure
      if (!shares.contains(name) && name != kTargetsSlot && name != kTeacherSlot)
        throw UsageError(fmt::format("the teacher '{}' has no share; give it one in --mix, or leave it out", name));
    result.signal = mixed(shares, [&](const std::string& name) {
      auto signal = in_training(name);
      add(name, *signal, {{"share", shares.at(name) / sum}});
      return signal;
    });
    result.alongside = all_alongside(used);
    if (measures && result.alongside && !config.teachers.mix.empty()) result.held_out = mixed(shares, in_evaluations);
  } else {
    std::vector<std::string> routed = names;  // those of these slots need not be responsible for a document
    std::erase_if(routed, [&](const std::string& name) {
      const auto goes_to = [&](const auto& route) { return route.second == name; };
      const bool named = std::ranges::any_of(config.teachers.routes, goes_to) ||
                         (config.teachers.route_by == RouteField::teacher &&
                          std::ranges::any_of(corpus->documents(), [&](const Document& d) { return d.teacher == name; }));
      return (name == kTargetsSlot || name == kTeacherSlot) && !named;
    });
    result.alongside = all_alongside(routed);
    std::vector<Split> splits = {Split::train};
    if (measures && result.alongside) splits.push_back(Split::held_out);
    const auto routes = std::make_shared<const DocumentRoutes>(corpus, config.teachers.route_by, config.teachers.routes, routed, splits);
    const auto all = [&](const auto& open) {
      std::vector<std::unique_ptr<TeacherSignal>> parts;
      for (const std::string& name : routes->teachers()) parts.push_back(open(name));
      return parts;
    };
    auto parts = all(in_training);
    for (size_t i = 0; i < parts.size(); ++i)
      add(routes->teachers()[i], *parts[i], {{"documents", routes->shares()[i].documents}, {"tokens", routes->shares()[i].tokens}});
    result.signal = routed_signal(routes, Split::train, std::move(parts));
    if (measures && result.alongside) result.held_out = routed_signal(routes, Split::held_out, all(in_evaluations));
  }
  if (measures && !result.held_out && inputs.has(kTeacherSlot)) result.held_out = in_evaluations(kTeacherSlot);
  result.facts = std::make_shared<const Json>(std::move(list));
  return result;
}

}  // namespace overproof
