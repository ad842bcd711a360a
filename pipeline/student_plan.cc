#include "pipeline/student_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "core/error.h"
#include "core/parallel.h"
#include "core/printable.h"
#include "formats/student_profile.h"

namespace overproof {
namespace {

namespace fs = std::filesystem;

/// The carved shape: `parts` experts of equal width, of which a token uses `active`; two thirds of these are shared (student/carve_stage.h).
ModelConfig planned_carving(const ModelConfig& dense, int64_t parts, int64_t active) {
  const int64_t shared = std::clamp<int64_t>(2 * active / 3, 0, active - 1);
  const bool glm = why_not_in_profile(dense, StudentProfile::glm4_moe).empty();
  ModelConfig c = carved_shape(dense, glm ? StudentProfile::glm4_moe : StudentProfile::qwen2_moe, parts - shared, shared, active - shared);
  if (glm) c.tie_embeddings = false;  // as vLLM needs it
  return c;
}

ModelConfig upcycled_shape(const ModelConfig& dense, int64_t copies, int64_t split, int64_t top_k) {
  ModelConfig c = dense;
  c.model_type = "glm4_moe";
  c.tie_embeddings = false;
  c.n_shared_experts = 0;
  c.n_routed_experts = copies * split;
  c.top_k = top_k;
  c.moe_intermediate_size = dense.intermediate_size / split;
  return c;
}

double fraction_of(const ModelConfig& c) { return double(c.active_parameters()) / double(c.parameters()); }

std::vector<PlannedStudent> carved(const ModelConfig& dense, double target, double active) {
  std::vector<PlannedStudent> found;
  for (const int64_t parts : {8, 16, 24, 32, 48, 64}) {
    if (dense.intermediate_size % parts != 0 || dense.intermediate_size / parts < 16) continue;
    // The largest number of active experts that reaches the target, else the least.
    int64_t chosen = 2;
    for (int64_t a = 2; a < parts; ++a)
      if (const ModelConfig c = planned_carving(dense, parts, a); fraction_of(c) <= target && double(c.active_parameters()) <= active) chosen = a;
    PlannedStudent student{.kind = PlannedStudent::Kind::carve, .shape = planned_carving(dense, parts, chosen), .parent_layers = dense.layers, .commands = {}};
    student.commands = {fmt::format("carve --experts {} --shared {} --top-k {}", student.shape.n_routed_experts,
                                    student.shape.shared_width() / student.shape.moe_intermediate_size, student.shape.top_k)};
    found.push_back(std::move(student));
  }
  return found;
}

/// Of a parent with `layers` of the layers: as many copies as the target needs, for whole FFNs and for parts of them.
std::vector<PlannedStudent> upcycled(const ModelConfig& dense, double target, double active) {
  constexpr int64_t kMostCopies = 4096, kMostExperts = 65536;
  std::vector<PlannedStudent> found;
  if (!why_not_in_profile(dense, StudentProfile::glm4_moe).empty()) return found;
  for (const int64_t split : {1, 2, 4, 8}) {
    if (dense.intermediate_size % split != 0) continue;
    for (int64_t top_k = split; top_k >= 1; top_k /= 2) {
      ModelConfig parent = dense, shape;
      int64_t copies = 1;
      // The most layers with which the active parameters fit; routers are active, so they grow with the copies.
      for (;; --parent.layers) {
        copies = 1;
        while (copies < kMostCopies && copies * split < kMostExperts && fraction_of(upcycled_shape(parent, copies, split, top_k)) > target)
          copies = copies < 32 ? copies + 1 : copies + copies / 16;
        shape = upcycled_shape(parent, copies, split, top_k);
        if (parent.layers == 1 || double(shape.active_parameters()) <= active) break;
      }
      const bool shrunk = parent.layers < dense.layers;
      PlannedStudent student{.kind = shrunk ? PlannedStudent::Kind::shrink_upcycle : PlannedStudent::Kind::upcycle,
                             .shape = shape,
                             .parent_layers = parent.layers,
                             .copies = copies,
                             .split = split,
                             .commands = {}};
      if (shrunk) student.commands.push_back(fmt::format("shrink --layers {}", parent.layers));
      student.commands.push_back(fmt::format("upcycle --copies {} --split {} --top-k {}", copies, split, top_k));
      found.push_back(std::move(student));
    }
  }
  return found;
}

std::string count_text(double n) {
  return n >= 1e9 ? fmt::format("{:.2f} B", n / 1e9) : n >= 1e6 ? fmt::format("{:.1f} M", n / 1e6) : n >= 1e3 ? fmt::format("{:.1f} k", n / 1e3) : fmt::format("{:.0f}", n);
}

const char* kind_name(PlannedStudent::Kind kind) {
  switch (kind) {
    case PlannedStudent::Kind::carve:
      return "carve";
    case PlannedStudent::Kind::upcycle:
      return "upcycle";
    case PlannedStudent::Kind::shrink_upcycle:
      break;
  }
  return "shrink, upcycle";
}

Json cost_json(const StudentCost& c) {
  return {{"parameters", c.parameters},   {"active_parameters", c.active},   {"memory_bytes", int64_t(c.memory_bytes)},
          {"flops_per_token", c.flops},   {"bytes_per_token", c.read_bytes}, {"decode_tokens_per_second", c.decode_tokens}};
}

}  // namespace

StudentCost cost_of(const ModelConfig& c, double bytes_per_weight, double bandwidth) {
  StudentCost cost;
  cost.parameters = c.parameters();
  cost.active = c.active_parameters();
  cost.memory_bytes = bytes_per_weight * double(cost.parameters);
  // A row of an embedding that is not the head as well is looked up, not multiplied.
  const double table = c.tie_embeddings ? 0.0 : double(c.vocab_size) * double(c.hidden_size);
  const double used = double(cost.active) - table;
  cost.flops = 2 * used;
  cost.read_bytes = bytes_per_weight * (used + (c.tie_embeddings ? 0.0 : double(c.hidden_size)));
  cost.decode_tokens = bandwidth / cost.read_bytes;
  return cost;
}

std::vector<PlannedStudent> plan_students(const ModelConfig& dense, double target, double active, int64_t most) {
  std::vector<PlannedStudent> all;
  for (std::vector<PlannedStudent> kind : {carved(dense, target, active), upcycled(dense, target, active)}) {
    const auto reaches = [&](const PlannedStudent& s) { return s.active_fraction() <= target && double(s.shape.active_parameters()) <= active; };
    std::ranges::stable_sort(kind, [&](const PlannedStudent& a, const PlannedStudent& b) {
      if (reaches(a) != reaches(b)) return reaches(a);
      if (!reaches(a)) return a.active_fraction() < b.active_fraction();
      return a.shape.parameters() < b.shape.parameters();
    });
    if (int64_t(kind.size()) > most) kind.resize(size_t(most));
    all.insert(all.end(), std::make_move_iterator(kind.begin()), std::make_move_iterator(kind.end()));
  }
  return all;
}

std::vector<TokenNeed> token_needs(const PlannedStudent& student, const ModelConfig& dense) {
  constexpr double kTokensPerWeight = 20, kSaved = 40;
  const ModelConfig& c = student.shape;
  std::vector<TokenNeed> needs;
  if (student.kind == PlannedStudent::Kind::carve) {
    needs.push_back({"recover", "each routed expert needs as many tokens as it has neurons",
                     double(c.moe_intermediate_size) * double(c.n_routed_experts) / double(c.top_k)});
    return needs;
  }
  ModelConfig parent = dense;
  parent.layers = student.parent_layers;
  if (student.kind == PlannedStudent::Kind::shrink_upcycle)
    needs.push_back({"shrink", "20 tokens a kept weight (Hoffmann et al. 2022) over the 40-fold saving of Minitron",
                     kTokensPerWeight * double(parent.parameters()) / kSaved});
  const double added = double(student.copies - 1) * 3.0 * double(parent.layers) * double(parent.hidden_size) * double(parent.intermediate_size);
  needs.push_back({"upcycle", "20 tokens an added weight (Hoffmann et al. 2022, an assumption for copies)", kTokensPerWeight * added});
  return needs;
}

double parse_count(const std::string& text, const char* option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, size_t(text.data() + text.size() - end));
  const double factor = unit.empty() ? 1 : unit == "k" || unit == "K" ? 1e3 : unit == "M" ? 1e6 : unit == "B" || unit == "G" ? 1e9 : unit == "T" ? 1e12 : 0;
  if (error != std::errc() || factor == 0 || !(value > 0) || !std::isfinite(value * factor))
    throw UsageError(fmt::format("option '{}': '{}' is not a number above 0 such as 50M, 1.5B or 20000", option, printable(text)));
  return value * factor;
}

double measure_bandwidth() {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kWords = size_t{32} << 20;  // 256 MiB, more than caches hold
  const std::vector<uint64_t> words(kWords, 1);
  const size_t threads = size_t(std::max<int64_t>(1, thread_count()));
  std::vector<uint64_t> sums(threads);
  double best = 0;
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    std::vector<std::thread> readers;
    for (size_t t = 0; t < threads; ++t)
      readers.emplace_back([&, t] {
        uint64_t a = 0, b = 0, c = 0, d = 0;
        for (size_t i = kWords / threads * t, end = kWords / threads * (t + 1); i + 4 <= end; i += 4)
          a += words[i], b += words[i + 1], c += words[i + 2], d += words[i + 3];
        sums[t] += a + b + c + d;
      });
    for (std::thread& reader : readers) reader.join();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, double(kWords * sizeof(uint64_t)) / std::max(seconds, 1e-9));
  } while (std::chrono::duration<double>(Clock::now() - begin).count() < 0.1);
  OVERPROOF_CHECK(sums[0] > 0);  // so that no compiler leaves the reading out
  return best;
}

Answer run_plan(const PlanConfig& config) {
  if (config.model.empty()) throw UsageError("plan: name the dense model with --model");
  const Checkpoint checkpoint = open_checkpoint(config.model);
  const ModelConfig dense = ModelConfig::from_json(*checkpoint.config, fs::is_directory(config.model) ? config.model / "config.json" : config.model);
  if (dense.is_moe()) throw MismatchError(fmt::format("{}: is a mixture of experts; plan starts from a dense model", printable(config.model.string())));
  if (const std::string cause = dense.why_not_trained(); !cause.empty()) throw MismatchError(fmt::format("{}: {}", printable(config.model.string()), cause));
  const bool bounded = !config.active_params.empty();
  const double active = bounded ? parse_count(config.active_params, "active-params") : std::numeric_limits<double>::infinity();
  const double tokens = config.tokens.empty() ? 0 : parse_count(config.tokens, "tokens");
  const double bytes = config.weights == PlanConfig::Weights::f32 ? 4 : config.weights == PlanConfig::Weights::bf16 ? 2 : 1;
  const bool measured = config.bandwidth == 0;
  const double bandwidth = measured ? measure_bandwidth() : config.bandwidth * 1e9;

  Answer answer;
  const StudentCost own = cost_of(dense, bytes, bandwidth);
  ModelConfig untied = dense;
  untied.tie_embeddings = false;
  const double ffn = 3.0 * double(dense.layers) * double(dense.hidden_size) * double(dense.intermediate_size);
  const double least = 1 - ffn / double(untied.parameters());
  answer.json = {{"model", cost_json(own)},
                 {"ffn_parameters", int64_t(ffn)},
                 {"least_activation_of_carve", least},
                 {"target_activation", config.target_activation},
                 {"active_params", bounded ? Json(active) : Json(nullptr)},
                 {"bandwidth_bytes_per_second", bandwidth},
                 {"bandwidth_measured", measured},
                 {"students", Json::array()}};
  answer.text = fmt::format("{} parameters, {} of them in FFNs; {} {:.1f} GB/s\n", count_text(double(own.parameters)), count_text(ffn),
                            measured ? "memory reads, measured here:" : "memory reads, as given:", bandwidth / 1e9);
  if (least > config.target_activation)
    answer.text += fmt::format("carve alone reaches {:.1f} % of all parameters at least: embeddings, attention and norms are active for every token\n",
                               100 * least);
  answer.text += fmt::format("\n{:<42}{:>11}{:>11}{:>9}{:>8}{:>11}{:>12}{:>12}{:>10}\n", "", "parameters", "active", "of all", "of FFN", "memory",
                             "FLOP/token", "read/token", "token/s");
  for (const PlannedStudent& s : plan_students(dense, config.target_activation, active, config.most)) {
    const StudentCost cost = cost_of(s.shape, bytes, bandwidth);
    const bool reaches = s.active_fraction() <= config.target_activation && double(cost.active) <= active;
    Json row = cost_json(cost);
    row.update({{"kind", kind_name(s.kind)},
                {"commands", s.commands},
                {"active_fraction", s.active_fraction()},
                {"ffn_activation", s.shape.ffn_activation()},
                {"reaches", reaches},
                {"needs", Json::array()}});
    std::string name;
    for (const std::string& command : s.commands) name += (name.empty() ? "" : ", ") + command;
    answer.text += fmt::format("{:<42}{:>11}{:>11}{:>8.2f}%{:>7.1f}%{:>10.1f}M{:>12}{:>11.1f}M{:>10.1f}{}\n", name, count_text(double(cost.parameters)),
                               count_text(double(cost.active)), 100 * s.active_fraction(), 100 * s.shape.ffn_activation(), cost.memory_bytes / 1e6,
                               count_text(cost.flops), cost.read_bytes / 1e6, cost.decode_tokens, reaches ? "" : "  misses the target");
    for (const TokenNeed& need : token_needs(s, dense)) {
      row["needs"].push_back({{"step", need.step}, {"tokens", need.tokens}, {"rule", need.rule}});
      if (tokens > 0) row["needs"].back()["paid"] = tokens >= need.tokens;
      if (tokens > 0 && tokens < need.tokens)
        answer.text += fmt::format("    {}: {} tokens do not pay for it, {} would: {}\n", need.step, count_text(tokens), count_text(need.tokens), need.rule);
    }
    answer.json["students"].push_back(std::move(row));
  }
  answer.text += "\ntoken/s is the memory bandwidth over what a token reads, an upper bound; FLOPs are without attention over earlier tokens\n";
  return answer;
}

}  // namespace overproof
