#include "evidence/weight_tests.h"

#include <fmt/format.h>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/rng.h"
#include "evidence/assignment.h"
#include "evidence/distributions.h"
#include "formats/tensor_name.h"

namespace overproof {
namespace {

constexpr int64_t kMostLayers = 100000;

/// Null hypotheses.
constexpr const char* kOrderNull =
    "the models were initialised independently, and training treated the neurons of an expert alike";
constexpr const char* kMatchedNull =
    "the models were initialised independently, and matchings by gate and by up rows are independent";
constexpr const char* kPermutedNull =
    "the models were initialised independently, and training treated the coordinates of the residual stream alike";
constexpr const char* kCannotShow =
    "that one model was taught by the other: a student with its own weights is not found. Nor which model is older, nor whether "
    "both "
    "come from a third. Rotating the residual stream hides what these tests look for";

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Rows scaled to length 1; a row of zeros stays one.
Matrix unit_rows(const std::vector<float>& values, int64_t rows, int64_t columns) {
  Matrix m = Eigen::Map<const Matrix>(values.data(), rows, columns);
  for (int64_t i = 0; i < rows; ++i) {
    if (!std::isfinite(m.row(i).squaredNorm())) m.row(i) /= m.row(i).cwiseAbs().maxCoeff();  // finite weights whose squares are not
    m.row(i) /= std::max(m.row(i).norm(), 1e-20f);
  }
  return m;
}

/// x y^T: cosines of all pairs of rows. The blocks are the same for any number of threads.
Matrix cosines(const Matrix& x, const Matrix& y) {
  Eigen::setCpuCacheSizes(32 << 10, 256 << 10, 2 << 20);  // else sums are cut by the sizes of this machine's caches
  Matrix out(x.rows(), y.rows());
  parallel_for(x.rows(), 64, [&](int64_t begin, int64_t end) {
    out.middleRows(begin, end - begin).noalias() = x.middleRows(begin, end - begin) * y.transpose();
  });
  return out;
}

std::vector<int64_t> matched(const Matrix& similarity) {
  return best_assignment({similarity.data(), size_t(similarity.size())}, similarity.rows(), similarity.cols());
}

/// The test of phi_MATCH: columns by gate against columns by up.
RankTest agreement_of(const NeuronMatching& m) {
  return rank_test(std::vector<double>(m.gate.begin(), m.gate.end()), std::vector<double>(m.up.begin(), m.up.end()));
}

/// A layer of both models: `rows` has no more neurons than `columns`.
struct Pair {
  NeuronRows rows, columns;
};

Pair read_pair(const NeuronReader& a, const NeuronReader& b, int64_t layer, int64_t fewer, int64_t more) {
  const bool a_first = a.neurons(layer) <= b.neurons(layer);
  const NeuronReader &small = a_first ? a : b, &large = a_first ? b : a;
  return {small.read(layer, fewer), large.read(layer, more)};
}

std::vector<int64_t> shuffled(int64_t n, uint64_t seed, uint64_t number) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  Rng rng(seed, "evidence/coordinates", number);
  for (int64_t i = n; i > 1; --i) std::swap(order[size_t(i - 1)], order[size_t(rng.below(uint64_t(i)))]);
  return order;
}

EvidenceTest base(const char* name, const char* question, const std::string& computed_on) {
  EvidenceTest test;
  test.name = name;
  test.question = question;
  test.cannot_show = kCannotShow;
  test.computed_on = computed_on;
  return test;
}

}  // namespace

NeuronReader::NeuronReader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {
  std::map<std::pair<int64_t, int64_t>, Part> parts;
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> shapes;
  for (const TensorInfo& info : checkpoint.tensors->tensors()) {
    const TensorName name = TensorName::parse(info.name);
    const bool up = name.part == TensorName::Part::up;
    if (!name.in_decoder() || name.layer > kMostLayers || name.bias || !(up || name.part == TensorName::Part::gate) ||
        info.shape.size() != 2 || info.elements() < 1)
      continue;
    const std::pair at{name.layer, name.expert};
    Part& part = parts[at];
    (up ? part.up : part.gate) = info.name;
    part.rows = info.shape[0];
    auto& shape = shapes[at];
    if (shape.empty()) shape = info.shape;
    if (hidden_ == 0) hidden_ = info.shape[1];
    if (shape != info.shape || info.shape[1] != hidden_)
      throw FormatError(
          checkpoint.path, -1,
          fmt::format("tensor '{}': gate and up of an expert must have the same shape, and all the same hidden size", info.name));
  }
  for (const auto& [at, part] : parts) {
    if (part.gate.empty() || part.up.empty()) continue;
    if (int64_t(layers_.size()) <= at.first) layers_.resize(size_t(at.first) + 1);
    layers_[size_t(at.first)].push_back(part);  // by expert, the dense or shared ones (-1) first
  }
}

int64_t NeuronReader::neurons(int64_t layer) const {
  int64_t sum = 0;
  for (const Part& part : layers_[size_t(layer)]) sum += part.rows;
  return sum;
}

NeuronRows NeuronReader::read(int64_t layer, int64_t most) const {
  const int64_t all = neurons(layer), wanted = std::min(all, most);
  NeuronRows out;
  out.hidden = hidden_;
  int64_t first = 0, next = 0;  // of the part; number of the next neuron to take
  int32_t block = 0;
  for (const Part& part : layers_[size_t(layer)]) {
    std::vector<float> gate, up;
    for (; next < wanted; ++next) {
      const int64_t row = int64_t(__int128(next) * all / wanted) - first;
      if (row >= part.rows) break;
      if (gate.empty()) {
        gate = checkpoint_.tensors->read_all_f32(part.gate);
        up = checkpoint_.tensors->read_all_f32(part.up);
      }
      out.gate.insert(out.gate.end(), gate.begin() + row * hidden_, gate.begin() + (row + 1) * hidden_);
      out.up.insert(out.up.end(), up.begin() + row * hidden_, up.begin() + (row + 1) * hidden_);
      out.block.push_back(block);
    }
    first += part.rows;
    ++block;
  }
  out.neurons = int64_t(out.block.size());
  const auto finite = [](float x) { return std::isfinite(x); };
  if (!std::all_of(out.gate.begin(), out.gate.end(), finite) || !std::all_of(out.up.begin(), out.up.end(), finite))
    throw FormatError(checkpoint_.path, -1, fmt::format("the FFN weights of layer {} are not all finite", layer));
  return out;
}

NeuronMatching match_neurons(const NeuronRows& rows, const NeuronRows& columns) {
  OVERPROOF_CHECK(rows.neurons >= 1 && rows.neurons <= columns.neurons && rows.hidden == columns.hidden);
  const auto similarity = [&](const std::vector<float>& x, const std::vector<float>& y) {
    return cosines(unit_rows(x, rows.neurons, rows.hidden), unit_rows(y, columns.neurons, columns.hidden));
  };
  const Matrix gate = similarity(rows.gate, columns.gate), up = similarity(rows.up, columns.up), both = gate + up;
  NeuronMatching m;
  parallel_for(3, 1, [&](int64_t begin, int64_t) {
    if (begin == 0) m.both = matched(both);
    if (begin == 1) m.gate = matched(gate);
    if (begin == 2) m.up = matched(up);
  });
  return m;
}

OrderEvidence neuron_order(const NeuronRows& rows, const NeuronRows& columns, const std::vector<int64_t>& column_of) {
  std::map<std::pair<int32_t, int32_t>, std::pair<std::vector<double>, std::vector<double>>> strata;
  for (size_t i = 0; i < column_of.size(); ++i) {
    auto& [x, y] = strata[{rows.block[i], columns.block[size_t(column_of[i])]}];
    x.push_back(double(i));
    y.push_back(double(column_of[i]));
  }
  OrderEvidence evidence;
  for (const auto& [blocks, pairs] : strata) {
    if (pairs.first.size() < 3) continue;  // two are in order with probability 1/2
    const RankTest test = rank_test(pairs.first, pairs.second);
    evidence.log_p.push_back(test.log_p);
    evidence.weighted_rho += test.rho * double(pairs.first.size());
    evidence.matched += int64_t(pairs.first.size());
  }
  if (evidence.matched > 0) evidence.weighted_rho /= double(evidence.matched);
  return evidence;
}

int64_t nearest_agreements(const NeuronRows& rows, const NeuronRows& columns, const std::vector<int64_t>& coordinates) {
  const auto nearest = [&](const std::vector<float>& x, const std::vector<float>& y) {
    const Matrix given = unit_rows(x, rows.neurons, rows.hidden);
    Matrix permuted(given.rows(), given.cols());
    for (int64_t h = 0; h < rows.hidden; ++h) permuted.col(h) = given.col(coordinates[size_t(h)]);
    const Matrix all = cosines(permuted, unit_rows(y, columns.neurons, columns.hidden));
    std::vector<Eigen::Index> best(size_t(rows.neurons));
    for (int64_t i = 0; i < rows.neurons; ++i) all.row(i).maxCoeff(&best[size_t(i)]);
    return best;
  };
  const std::vector<Eigen::Index> by_gate = nearest(rows.gate, columns.gate), by_up = nearest(rows.up, columns.up);
  return std::inner_product(by_gate.begin(), by_gate.end(), by_up.begin(), int64_t{0}, std::plus<>(), std::equal_to<>());
}

std::vector<EvidenceTest> weight_tests(const NeuronReader& a, const NeuronReader& b, const WeightTestOptions& options) {
  const auto refuse = [&](const std::string& why) {
    std::vector<EvidenceTest> none;
    for (const auto& [name, question] :
         {std::pair{"weights-order", kOrderNull}, {"weights-matched", kMatchedNull}, {"weights-permuted", kPermutedNull}})
      none.push_back(not_run(name, question, why));
    return none;
  };
  if (a.layers() == 0 || b.layers() == 0) return refuse("one of the models has no gated FFN weights under known names");
  if (a.hidden() != b.hidden())
    return refuse(
        fmt::format("the models have hidden sizes of {} and {}: their neurons cannot be compared", a.hidden(), b.hidden()));
  std::vector<int64_t> layers;
  for (int64_t l = 0; l < std::min(a.layers(), b.layers()); ++l)
    if (a.neurons(l) >= 3 && b.neurons(l) >= 3) layers.push_back(l);
  if (layers.empty()) return refuse("no layer has FFN neurons in both models");

  std::vector<std::vector<int64_t>> coordinates;
  coordinates.push_back({});
  for (int64_t i = 0; i < a.hidden(); ++i) coordinates[0].push_back(i);
  for (int64_t t = 0; t < options.permutations; ++t) coordinates.push_back(shuffled(a.hidden(), options.seed, uint64_t(t)));

  std::vector<double> order_p, matched_p;
  std::vector<int64_t> agreements(coordinates.size(), 0);
  Json per_layer = Json::array();
  double order_rho = 0, matched_rho = 0;
  int64_t strata = 0, ordered = 0, pairs = 0, agreeing = 0, sampled = 0, done = 0;
  Progress progress("compare weights", int64_t(layers.size()), "layers");
  for (const int64_t layer : layers) {
    throw_if_interrupted();
    const Pair pair = read_pair(a, b, layer, options.neurons, options.more_neurons);
    const NeuronMatching m = match_neurons(pair.rows, pair.columns);
    const OrderEvidence order = neuron_order(pair.rows, pair.columns, m.both);
    const RankTest match = agreement_of(m);
    int64_t same = 0;
    for (size_t i = 0; i < m.gate.size(); ++i) same += m.gate[i] == m.up[i];
    order_p.insert(order_p.end(), order.log_p.begin(), order.log_p.end());
    matched_p.push_back(match.log_p);
    strata += int64_t(order.log_p.size());
    ordered += order.matched;
    order_rho += order.weighted_rho * double(order.matched);
    pairs += pair.rows.neurons;
    matched_rho += match.rho * double(pair.rows.neurons);
    agreeing += same;
    per_layer.push_back({{"layer", layer},
                         {"neurons", pair.rows.neurons},
                         {"order_log10_p", fisher_combined(order.log_p) / std::log(10.0)},
                         {"matched_log10_p", match.log_p / std::log(10.0)},
                         {"agreeing", same}});
    if (options.permutations > 0) {
      const Pair few = read_pair(a, b, layer, options.sampled_neurons, options.more_neurons);
      sampled += few.rows.neurons;
      for (size_t t = 0; t < coordinates.size(); ++t) {
        throw_if_interrupted();
        agreements[t] += nearest_agreements(few.rows, few.columns, coordinates[t]);
      }
    }
    progress.update(++done, fmt::format("{} of {} neurons agree", agreeing, pairs));
  }
  const std::string where = a.layers() == b.layers()
                                ? ""
                                : fmt::format(" (compared by number: the models have {} and {} layers)", a.layers(), b.layers());

  EvidenceTest order =
      base("weights-order", kOrderNull,
           fmt::format("{} matched neurons in {} experts or layers, {} layers{}", ordered, strata, layers.size(), where));
  order.statistic = "mean Spearman correlation of the places of matched neurons within their experts";
  order.value = ordered > 0 ? order_rho / double(ordered) : 0;
  order.log_p = fisher_combined(order_p);
  order.p_kind = "exact under the null hypothesis: permutation tests within experts, combined by Fisher's method";
  order.cannot_show =
      std::string(kCannotShow) + ". Shuffling the neurons of a layer hides them from this test, not from the other two";
  order.details = {{"experts", strata}, {"neurons", ordered}, {"layers", per_layer}};

  EvidenceTest match = base("weights-matched", kMatchedNull, fmt::format("{} neurons, {} layers{}", pairs, layers.size(), where));
  match.statistic = "mean Spearman correlation between matching by gate rows and by up rows";
  match.value = pairs > 0 ? matched_rho / double(pairs) : 0;
  match.log_p = fisher_combined(matched_p);
  match.p_kind =
      "nominal: assumes that the two matchings of independent models are independent and uniform, which is not guaranteed";
  match.details = {{"neurons", pairs}, {"agreeing", agreeing}, {"agreeing_expected", "about 1 per layer"}};

  if (options.permutations == 0) return {order, match, not_run("weights-permuted", kPermutedNull, "--weight-permutations is 0")};
  EvidenceTest permuted =
      base("weights-permuted", kPermutedNull,
           fmt::format("{} neurons, {} layers{}, {} permutations", sampled, layers.size(), where, options.permutations));
  const auto as_many = std::count_if(agreements.begin() + 1, agreements.end(), [&](int64_t k) { return k >= agreements[0]; });
  const auto more = std::count_if(agreements.begin() + 1, agreements.end(), [&](int64_t k) { return k > agreements[0]; });
  permuted.statistic = "neurons whose nearest neighbours by gate and by up are the same neuron";
  permuted.value = double(agreements[0]);
  permuted.log_p = std::log(double(1 + as_many) / double(1 + options.permutations));
  permuted.p_kind =
      fmt::format("valid under the null hypothesis, by permutation (too large where counts tie); cannot be below 1/{}",
                  1 + options.permutations);
  permuted.details = {{"neurons", sampled},
                      {"permutations", options.permutations},
                      {"permuted_at_least", as_many},
                      {"permuted_more", more},
                      {"largest_permuted", *std::max_element(agreements.begin() + 1, agreements.end())}};
  return {order, match, permuted};
}

}  // namespace overproof
