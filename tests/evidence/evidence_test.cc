#include "evidence/output_tests.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "data/order.h"
#include "evidence/assignment.h"
#include "evidence/committed_order.h"
#include "evidence/distributions.h"
#include "evidence/weight_tests.h"

namespace overproof {
namespace {

NeuronRows random_rows(int64_t neurons, int64_t hidden, uint64_t seed, int64_t experts = 1) {
  NeuronRows rows{neurons, hidden, {}, {}, {}};
  Rng rng(seed, "test/neurons");
  for (auto* side : {&rows.gate, &rows.up})
    for (int64_t i = 0; i < neurons * hidden; ++i) side->push_back(float(rng.normal()));
  for (int64_t i = 0; i < neurons; ++i) rows.block.push_back(int32_t(i * experts / neurons));
  return rows;
}

/// The neurons of `rows` at `places`, a little changed, in `experts` blocks.
NeuronRows picked(const NeuronRows& rows, const std::vector<int64_t>& places, int64_t experts, double noise) {
  NeuronRows out = random_rows(int64_t(places.size()), rows.hidden, 77, experts);
  for (size_t i = 0; i < places.size(); ++i)
    for (int64_t h = 0; h < rows.hidden; ++h) {
      const auto to = size_t(int64_t(i) * rows.hidden + h), from = size_t(places[i] * rows.hidden + h);
      out.gate[to] = rows.gate[from] + float(noise) * out.gate[to];
      out.up[to] = rows.up[from] + float(noise) * out.up[to];
    }
  return out;
}

std::vector<int64_t> counted(int64_t n) {
  std::vector<int64_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), int64_t{0});
  return v;
}

}  // namespace

TEST_CASE("assignments equal scipy's") {
  for (const Json& c : read_json(OVERPROOF_SOURCE_DIR "/tests/golden/assignment/assignment.json")) {
    const auto similarity = c["similarity"].get<std::vector<float>>();
    CHECK(best_assignment(similarity, c["rows"].get<int64_t>(), c["columns"].get<int64_t>()) ==
          c["column_of"].get<std::vector<int64_t>>());
  }
}

TEST_CASE("assignments follow a permutation of the rows") {
  Rng rng(2, "test/assignment");
  std::vector<float> s(12 * 20), turned(12 * 20);
  for (float& x : s) x = float(rng.normal());
  for (size_t r = 0; r < 12; ++r) std::copy_n(s.begin() + ptrdiff_t(r * 20), 20, turned.begin() + ptrdiff_t((11 - r) * 20));
  std::vector<int64_t> there = best_assignment(turned, 12, 20);
  std::reverse(there.begin(), there.end());
  CHECK(best_assignment(s, 12, 20) == there);
}

TEST_CASE("neurons that were distributed to experts, or pruned, are matched; those of unrelated models are not") {
  const NeuronRows parent = random_rows(96, 24, 1);
  std::vector<int64_t> dealt;  // 4 experts of 24 neurons, ascending within each, as carving distributes them
  for (int64_t e = 0; e < 4; ++e)
    for (int64_t i = e; i < 96; i += 4) dealt.push_back(i);
  const NeuronRows carved = picked(parent, dealt, 4, 0.2);
  const NeuronMatching m = match_neurons(parent, carved);
  for (int64_t i = 0; i < 96; ++i) CHECK(dealt[size_t(m.both[size_t(i)])] == i);
  const OrderEvidence order = neuron_order(parent, carved, m.both);
  CHECK(order.log_p.size() == 4);
  CHECK(order.matched == 96);
  CHECK(order.weighted_rho == Approx(1.0));
  CHECK(fisher_combined(order.log_p) < -80);
  CHECK(nearest_agreements(parent, carved, counted(24)) == 96);

  std::vector<int64_t> few;
  for (int64_t i = 0; i < 96; i += 3) few.push_back(i);
  const NeuronRows pruned = picked(parent, few, 1, 0.2);
  const NeuronMatching p = match_neurons(pruned, parent);
  CHECK(p.both == few);
  CHECK(p.gate == few);
  CHECK(fisher_combined(neuron_order(pruned, parent, p.both).log_p) < -30);

  const NeuronRows stranger = random_rows(96, 24, 2);
  CHECK(fisher_combined(neuron_order(parent, stranger, match_neurons(parent, stranger).both).log_p) > std::log(1e-3));
  CHECK(nearest_agreements(parent, stranger, counted(24)) < 10);
}

TEST_CASE("shuffled neurons are found by the robust matching alone") {
  const NeuronRows parent = random_rows(80, 24, 3);
  std::vector<int64_t> places = counted(80);
  Rng rng(4, "test/shuffle");
  for (size_t i = places.size(); i > 1; --i) std::swap(places[i - 1], places[size_t(rng.below(i))]);
  const NeuronRows shuffled = picked(parent, places, 1, 0.2);
  const NeuronMatching m = match_neurons(parent, shuffled);
  CHECK(m.gate == m.up);
  CHECK(fisher_combined(neuron_order(parent, shuffled, m.both).log_p) > std::log(1e-4));
  CHECK(nearest_agreements(parent, shuffled, counted(24)) == 80);
  // With the coordinates of the residual stream permuted, nothing is left of it.
  std::vector<int64_t> turned = counted(24);
  std::reverse(turned.begin(), turned.end());
  CHECK(nearest_agreements(parent, shuffled, turned) < 10);
}

namespace {

/// Tensors of whole numbers under the names that a model of one dense or `experts` FFN a layer has.
class GivenWeights : public TensorSource {
 public:
  explicit GivenWeights(const Json& layers) {
    for (size_t l = 0; l < layers.size(); ++l)
      for (const char* side : {"gate", "up"}) {
        const auto rows = layers[l][side].get<std::vector<std::vector<float>>>();
        const auto expert = layers[l]["expert"].get<std::vector<int64_t>>();
        const std::string ffn = "model.layers." + std::to_string(l) + ".mlp.";
        for (size_t i = 0; i < rows.size(); ++i)
          add(ffn + (expert.back() > 0 ? "experts." + std::to_string(expert[i]) + "." : "") + side + "_proj.weight", rows[i]);
      }
  }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read_f32(std::string_view name, int64_t first_row, int64_t, std::span<float> out) const override {
    const TensorInfo& info = *find(name);
    const std::vector<float>& all = values_[size_t(&info - infos_.data())];
    std::copy_n(all.begin() + first_row * info.shape[1], out.size(), out.begin());
  }

 private:
  void add(const std::string& name, const std::vector<float>& row) {
    if (!find(name)) infos_.push_back({name, DType::f32, {0, int64_t(row.size())}}), values_.emplace_back();
    const auto at = size_t(find(name) - infos_.data());
    infos_[at].shape[0] += 1;
    values_[at].insert(values_[at].end(), row.begin(), row.end());
  }
  std::vector<TensorInfo> infos_;
  std::vector<std::vector<float>> values_;
};

Checkpoint given(const Json& layers) {
  Checkpoint checkpoint;
  checkpoint.tensors = std::make_unique<GivenWeights>(layers);
  return checkpoint;
}

}  // namespace

TEST_CASE("tests on weights equal those of numpy and scipy") {
  const Json golden = read_json(OVERPROOF_SOURCE_DIR "/tests/golden/weight_tests/weights.json");
  for (const auto& [name, c] : golden.items()) {
    CAPTURE(name);
    const Checkpoint a = given(c["a"]), b = given(c["b"]);
    const NeuronReader dense(a), experts(b);
    CHECK(dense.layers() == 2);
    CHECK(dense.hidden() == 6);
    CHECK(dense.neurons(1) == 8);
    CHECK(experts.read(0, 1000).block == c["b"][0]["expert"].get<std::vector<int32_t>>());
    CHECK(experts.read(0, 4).neurons == 4);
    const std::vector<EvidenceTest> tests = weight_tests(dense, experts, {.permutations = 99});
    REQUIRE(tests.size() == 3);
    for (const EvidenceTest& test : tests) CHECK((test.ran() && !test.cannot_show.empty()));
    CHECK(tests[0].value == Approx(c["order_value"].get<double>()).epsilon(1e-12));
    CHECK(std::exp(tests[0].log_p) == Approx(c["order_p"].get<double>()).epsilon(1e-9));
    CHECK(tests[0].to_json()["p_value"].get<double>() == Approx(c["order_p"].get<double>()).epsilon(1e-9));
    CHECK(tests[0].details["neurons"] == c["ordered"]);
    CHECK(tests[1].value == Approx(c["matched_value"].get<double>()).epsilon(1e-12));
    CHECK(std::exp(tests[1].log_p) == Approx(c["matched_p"].get<double>()).epsilon(1e-9));
    CHECK(tests[2].value == c["nearest"].get<double>());
    CHECK(std::exp(tests[2].log_p) == Approx((1 + tests[2].details["permuted_at_least"].get<double>()) / 100));
    std::vector<int64_t> reversed = counted(6);
    std::reverse(reversed.begin(), reversed.end());
    int64_t nearest = 0;
    for (int64_t layer = 0; layer < 2; ++layer)
      nearest += nearest_agreements(dense.read(layer, 8), experts.read(layer, 10), reversed);
    CHECK(nearest == c["nearest_reversed"].get<int64_t>());
    // Either order of the models gives the same: the side with fewer neurons gives the rows.
    CHECK(weight_tests(experts, dense, {.permutations = 0})[1].log_p == tests[1].log_p);
  }
  Json wide = golden["carved"]["a"];
  for (Json& layer : wide)
    for (const char* side : {"gate", "up"})
      for (Json& row : layer[side]) row.push_back(1);
  const Checkpoint a = given(golden["carved"]["a"]), b = given(wide);
  CHECK(!weight_tests(NeuronReader(a), NeuronReader(b), {})[0].ran());
}

TEST_CASE("the last visit of each window is where training left it") {
  const Digest key = order_key(sha256("corpus"), 3);
  const int64_t windows = 50, taught = 20, visits = 47;  // two epochs and seven windows
  const VisitedWindows visited = visited_windows(key, windows, taught, visits, 1000);
  const TrainingOrder order(key, windows, taught);
  std::map<int64_t, double> last;
  for (int64_t p = 0; p < visits; ++p) last[order.window_of_block(order.block_at(p))] = double(p);
  REQUIRE(visited.windows.size() == 20);
  for (size_t i = 0; i < visited.windows.size(); ++i) CHECK(last.at(visited.windows[i]) == visited.positions[i]);
  CHECK(visited_windows(key, windows, taught, 5, 1000).windows.size() == 5);
  CHECK(visited_windows(key, windows, taught, visits, 4).windows.size() == 4);
}

TEST_CASE("the order test finds what falls with the order, on one side only") {
  std::vector<double> positions, falling, rising;
  Rng rng(8, "test/order");
  for (int i = 0; i < 500; ++i) {
    positions.push_back(double(rng.next_u32()));
    falling.push_back(-positions.back() * 1e-9 + rng.normal());
    rising.push_back(-falling.back());
  }
  const EvidenceTest found = order_test(positions, falling, 200, 1);
  CHECK(found.log_p < std::log(1e-12));
  CHECK(found.value < 0);
  CHECK(found.details["monte_carlo_p"].get<double>() == Approx(1.0 / 201));
  CHECK(std::exp(order_test(positions, rising, 0, 1).log_p) > 0.99);
  falling[3] = NAN;
  CHECK(!order_test(positions, falling, 0, 1).ran());
  CHECK(!order_test(std::vector<double>{1, 2}, std::vector<double>{1, 2}, 0, 1).ran());
}

TEST_CASE("agreement must exceed that of every control") {
  std::vector<int32_t> suspect(200), kin(200), far(200), near(200);
  Rng rng(9, "test/agreement");
  for (size_t i = 0; i < 200; ++i) {
    suspect[i] = int32_t(rng.below(50));
    kin[i] = rng.uniform() < 0.8 ? suspect[i] : 99;
    far[i] = rng.uniform() < 0.2 ? suspect[i] : 98;
    near[i] = rng.uniform() < 0.85 ? suspect[i] : 97;
  }
  const EvidenceTest alone = agreement_test(suspect, kin, {{"far", far}});
  CHECK(alone.log_p < std::log(1e-15));
  CHECK(alone.details["rank_p"] == 0.5);
  const EvidenceTest both = agreement_test(suspect, kin, {{"far", far}, {"near", near}});
  CHECK(both.log_p > std::log(0.5));  // one control is as close: nothing is shown
  CHECK(both.details["controls"][0]["holm_log10_p"].get<double>() ==
        Approx(both.details["controls"][0]["log10_p"].get<double>() + std::log10(2.0)));
  CHECK(!agreement_test(suspect, kin, {}).ran());
}

TEST_CASE("a context is scored once, and not where its green list was used before") {
  const WatermarkKey key(sha256("secret").bytes, 0.25, 2);
  RadioactivityCount count(key);
  const std::vector<int32_t> text{1, 2, 3, 1, 2, 4};
  for (size_t i = 1; i <= text.size(); ++i) count.add(std::span(text).first(i), 7, -1);
  CHECK(count.scored() == 4);  // (1 2), (2 3), (3 1), (2 4); the second (1 2) is left out
  RadioactivityCount skipping(key);
  skipping.skip(std::span(text).first(2));
  for (size_t i = 1; i <= text.size(); ++i) skipping.add(std::span(text).first(i), 7, -1);
  CHECK(skipping.scored() == 3);
  int64_t green = 0;
  RadioactivityCount all(key);
  for (int32_t a = 0; a < 40; ++a) {
    const std::vector<int32_t> context{a, a + 1};
    int32_t token = 0;
    while (!key.after(context).green(token)) ++token;
    all.add(context, a % 2 ? token : 300 + a, token);
    green += a % 2 || key.after(context).green(300 + a);
  }
  const EvidenceTest test = all.test("a test");
  CHECK(test.details["green"] == green);
  CHECK(test.log_p == Approx(log_binomial_at_least(green, 40, 0.25)));
  CHECK(test.details["text_green"] == 1.0);
}

TEST_CASE("p-values are printed below what a double holds") {
  CHECK(p_text(std::log(0.5)) == "0.5");
  CHECK(p_text(-831.7 * std::log(10.0)) == "2.0e-832");
  CHECK(p_text(std::log(9.99e-7)) == "1.0e-6");
}

}  // namespace overproof
