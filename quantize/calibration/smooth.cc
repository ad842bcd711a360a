#include "quantize/calibration/smooth.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/json_object.h"
#include "core/parallel.h"
#include "core/products.h"
#include "formats/architecture.h"
#include "formats/model_kinds.h"
#include "quantize/kernels/int8.h"
#include "quantize/kernels/int8_cpu.h"

namespace overproof {
namespace {

constexpr double kSmallest = 1e-5;
/// Samples of one input that the search uses; fewer of each when there are many experts, so that every layer costs about the same.
constexpr int64_t kSearchRows = 128, kFewestRows = 16;
constexpr int64_t kRowGrain = 16, kBlockBytes = int64_t{8} << 20;
constexpr int kStrengths = 9;  ///< 0.1, 0.2, ..., 0.9

float nearest_power_of_two(double x) { return float(std::exp2(std::clamp(std::nearbyint(std::log2(x)), -60.0, 60.0))); }

template <class Body>
void each_piece(const TensorSource& tensors, const std::string& name, const Body& body) {
  const TensorInfo* info = tensors.find(name);
  const int64_t rows = info->shape[0], columns = info->row_elements(),
                step = std::max<int64_t>(kRowGrain, kBlockBytes / std::max<int64_t>(1, columns * 4));
  std::vector<float> values;
  for (int64_t first = 0; first < rows; first += step) {
    throw_if_interrupted();
    const int64_t count = std::min(step, rows - first);
    values.resize(size_t(count * columns));
    parallel_for(count, kRowGrain, [&](int64_t begin, int64_t end) {
      tensors.read_f32(name, first + begin, end - begin,
                       std::span(values).subspan(size_t(begin * columns), size_t((end - begin) * columns)));
    });
    body(count, columns, std::span<const float>(values));
  }
}

int64_t channel(const SmoothSite& site, int64_t column) {
  return site.channel_of.empty() ? column : site.channel_of[size_t(column)];
}

struct Candidate {
  std::optional<double> strength;  ///< nullopt: no smoothing, all factors are 1
  std::vector<float> factors;      ///< by channel
  std::vector<float> columns;      ///< by column
};

/// The samples of one input, unrounded and as rounded with each candidate: all transposed, [in, rows].
struct Samples {
  int64_t rows = 0;
  std::vector<float> plain;
  std::vector<std::vector<float>> rounded;
};

Samples take_samples(const LinearStatistics& statistics, const std::vector<Candidate>& candidates, ActivationRounding rounding,
                     int64_t limit) {
  const int64_t in = statistics.columns, n = std::min(statistics.sample_rows, limit);
  Samples s{n, std::vector<float>(size_t(in * n)), {}};
  const auto sample = [&](int64_t i) { return statistics.samples.data() + (2 * i + 1) * statistics.sample_rows / (2 * n) * in; };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < in; ++c) s.plain[size_t(c * n + i)] = sample(i)[c];
  s.rounded.resize(candidates.size());
  for (size_t k = 0; k < candidates.size(); ++k) {
    std::vector<float> x(size_t(n * in));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < in; ++c) x[size_t(i * in + c)] = sample(i)[c] / candidates[k].columns[size_t(c)];
    if (rounding.is_static) {
      LinearStatistics smoothed = statistics;
      smooth_statistics(smoothed, candidates[k].columns);
      const float least = std::min(0.0f, smoothed.least), largest = std::max(0.0f, smoothed.largest);
      rounding.scale = rounding.symmetric ? std::max(-least, largest) / 127.5f : (largest - least) / 255.0f;
      if (!(rounding.scale > 0)) rounding.scale = 1.0f;
      rounding.zero_point =
          rounding.symmetric ? 0.0f : std::nearbyint(std::clamp(-128.0f - least / rounding.scale, -128.0f, 127.0f));
    }
    rounding.apply(x.data(), n, in);
    s.rounded[k].resize(size_t(in * n));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < in; ++c) s.rounded[k][size_t(c * n + i)] = x[size_t(i * in + c)];
  }
  return s;
}

/// row x columns, rounded to int8 and back, in place.
void round_row(std::span<float> row, const std::vector<float>& columns, int64_t group, std::vector<int8_t>& codes) {
  for (size_t c = 0; c < row.size(); ++c) row[c] *= columns[c];
  const size_t width = group > 0 ? size_t(group) : row.size();
  for (size_t c = 0; c < row.size(); c += width) {
    const std::span<float> part = row.subspan(c, std::min(width, row.size() - c));
    codes.resize(part.size());
    const Int8Row made = quantize_int8_row(part, codes, Clipping::absmax);
    for (size_t i = 0; i < part.size(); ++i) part[i] = int8_value(codes[i], made.scale);
  }
}

/// Adds to errors[k] the error of the weight's outputs with candidate k, relative to their energy.
void add_errors(const TensorSource& tensors, const std::string& weight, const Samples& samples,
                const std::vector<Candidate>& candidates, int64_t group, double importance, std::vector<double>& errors) {
  const int64_t n = samples.rows;
  double energy = 0;
  std::vector<double> sums(candidates.size(), 0.0);
  each_piece(tensors, weight, [&](int64_t rows, int64_t columns, std::span<const float> values) {
    const size_t parts = size_t((rows + kRowGrain - 1) / kRowGrain), width = candidates.size() + 1;
    std::vector<double> found(parts * width, 0.0);
    parallel_for(rows, kRowGrain, [&](int64_t begin, int64_t end) {
      const int64_t count = end - begin;
      const float* from = values.data() + begin * columns;
      double* sum = found.data() + size_t(begin / kRowGrain) * width;
      std::vector<float> outputs(size_t(count * n), 0.0f), difference(outputs.size()), rounded(size_t(count * columns));
      std::vector<int8_t> codes;
      subtract_product(outputs.data(), n, from, columns, samples.plain.data(), n, count, n, columns);
      for (float& y : outputs) {
        y = -y;
        sum[0] += double(y) * y;
      }
      for (size_t k = 0; k < candidates.size(); ++k) {
        std::copy_n(from, count * columns, rounded.begin());
        for (int64_t r = 0; r < count; ++r)
          round_row(std::span(rounded).subspan(size_t(r * columns), size_t(columns)), candidates[k].columns, group, codes);
        difference = outputs;
        subtract_product(difference.data(), n, rounded.data(), columns, samples.rounded[k].data(), n, count, n, columns);
        for (const float d : difference) sum[k + 1] += double(d) * d;
      }
    });
    for (size_t p = 0; p < parts; ++p) {
      energy += found[p * width];
      for (size_t k = 0; k < candidates.size(); ++k) sums[k] += found[p * width + k + 1];
    }
  });
  if (energy > 0)
    for (size_t k = 0; k < candidates.size(); ++k) errors[k] += importance * sums[k] / energy;
}

Candidate make_candidate(const SmoothSite& site, int64_t columns, std::optional<double> strength, std::span<const float> amax_x,
                         std::span<const float> amax_w) {
  Candidate c{strength, std::vector<float>(size_t(site.channels), 1.0f), std::vector<float>(size_t(columns))};
  if (strength) std::ranges::transform(smooth_factors(amax_x, amax_w, *strength), c.factors.begin(), nearest_power_of_two);
  for (int64_t i = 0; i < columns; ++i) c.columns[size_t(i)] = c.factors[size_t(channel(site, i))];
  return c;
}

/// Throws for architectures whose layers may be connected differently.
void check_kind(const std::string& model_type) {
  const ModelKind* kind = find_model_kind(model_type);
  if (kind && kind->computed.trained) return;
  std::vector<std::string_view> known;
  for (const ModelKind& k : model_kinds())
    if (k.computed.trained) known.push_back(k.model_type);
  throw UsageError(
      fmt::format("smooth supports the architectures {}, not '{}'; leave --smooth out", fmt::join(known, ", "), model_type));
}

/// The tensors of a decoder layer that smoothing connects; "" for one that does not exist.
struct LayerTensors {
  struct Ffn {
    std::string gate, up, up_bias, down;
  };
  enum class FfnKind { dense, shared, expert };
  std::string input_norm, post_norm, q, k, v, v_bias, o, router;
  std::map<std::pair<FfnKind, int64_t>, Ffn> ffns;  // experts by number
};

std::map<int64_t, LayerTensors> layers_of(const TensorSource& tensors) {
  using Part = TensorName::Part;
  using Kind = LayerTensors::FfnKind;
  std::map<int64_t, LayerTensors> layers;
  for (const TensorInfo& info : tensors.tensors()) {
    const TensorName name = TensorName::parse(info.name);
    if (!name.in_decoder()) continue;
    LayerTensors& layer = layers[name.layer];
    if (name.rest == "input_layernorm.weight") layer.input_norm = info.name;
    else if (name.rest == "post_attention_layernorm.weight") layer.post_norm = info.name;
    else if (name.part == Part::v && name.bias) layer.v_bias = info.name;
    const auto ffn = [&]() -> LayerTensors::Ffn& {
      return layer.ffns[{name.expert >= 0 ? Kind::expert : name.shared ? Kind::shared : Kind::dense, name.expert}];
    };
    if (name.part == Part::up && name.bias) ffn().up_bias = info.name;
    if (name.bias) continue;
    switch (name.part) {
      case Part::q:
        layer.q = info.name;
        break;
      case Part::k:
        layer.k = info.name;
        break;
      case Part::v:
        layer.v = info.name;
        break;
      case Part::o:
        layer.o = info.name;
        break;
      case Part::gate:
        ffn().gate = info.name;
        break;
      case Part::up:
        ffn().up = info.name;
        break;
      case Part::down:
        ffn().down = info.name;
        break;
      case Part::router:
        layer.router = info.name;
        break;
      default:
        break;
    }
  }
  return layers;
}

/// Collects sites whose tensors fit together: factors are looked up by channel later, and config.json does not ensure the shapes.
class SiteList {
 public:
  SiteList(const TensorSource& tensors, const fs::path& folder, const std::function<bool(const std::string&)>& is_quantized)
      : tensors_(tensors), folder_(folder), is_quantized_(is_quantized) {}

  int64_t rows(const std::string& name) const {
    const std::vector<int64_t>& shape = tensors_.find(name)->shape;
    return shape.empty() ? 1 : shape[0];
  }
  int64_t columns(const std::string& name) const {
    const TensorInfo& info = *tensors_.find(name);
    return info.shape.size() == 2 ? info.shape[1] : -1;
  }
  bool is_quantized(const std::string& name) const { return is_quantized_(name); }

  /// `readers`: weights whose columns read the channels; "" is skipped. A site without a quantized reader is not kept.
  void add(SmoothSite site, const std::vector<std::string>& readers) {
    std::vector<std::string> kept;
    for (const std::string& name : readers)
      if (!name.empty()) (is_quantized_(name) ? site.consumers : kept).push_back(name);
    if (site.consumers.empty()) return;
    site.compensated.insert(site.compensated.begin(), kept.begin(), kept.end());
    site.channels = rows(site.producers[0]);
    const int64_t width = site.channel_of.empty() ? site.channels : int64_t(site.channel_of.size());
    for (const std::string& name : site.producers)
      if (rows(name) != site.channels) refuse(name, "rows", site.channels, site);
    for (const auto* list : {&site.consumers, &site.compensated})
      for (const std::string& name : *list)
        if (columns(name) != width) refuse(name, "columns", width, site);
    sites_.push_back(std::move(site));
  }
  std::vector<SmoothSite> take() { return std::move(sites_); }

 private:
  [[noreturn]] void refuse(const std::string& name, std::string_view what, int64_t wanted, const SmoothSite& site) const {
    throw FormatError(folder_, -1, fmt::format("'{}' does not have {} {}, as '{}' needs", name, wanted, what, site.producers[0]));
  }

  const TensorSource& tensors_;
  const fs::path& folder_;
  const std::function<bool(const std::string&)>& is_quantized_;
  std::vector<SmoothSite> sites_;
};

/// Sets channel_of for o_proj, which reads each KV head once for every query head of its group. False when it is not quantized, or
/// the heads do not divide its columns.
bool map_heads(const SiteList& sites, const LayerTensors& layer, int64_t heads, int64_t kv_heads, SmoothSite& o) {
  if (layer.o.empty() || !sites.is_quantized(layer.o)) return false;
  const int64_t width = sites.columns(layer.o);
  if (heads <= 0 || kv_heads <= 0 || heads % kv_heads != 0 || width <= 0 || width % heads != 0 ||
      width / heads * kv_heads != sites.rows(layer.v))
    return false;
  const int64_t dim = width / heads;
  for (int64_t c = 0; c < width; ++c) o.channel_of.push_back(int32_t(c / dim / (heads / kv_heads) * dim + c % dim));
  return true;
}

}  // namespace

void TensorScaling::apply(int64_t first_row, int64_t count, std::span<float> x) const {
  if (count == 0) return;
  const size_t width = x.size() / size_t(count);
  for (int64_t r = 0; r < count; ++r) {
    float* row = x.data() + size_t(r) * width;
    if (columns)
      for (size_t c = 0; c < width; ++c) row[c] *= (*columns)[c];
    if (rows)
      for (size_t c = 0; c < width; ++c) row[c] *= (*rows)[size_t(first_row + r)];
  }
}

std::vector<double> smooth_factors(std::span<const float> amax_x, std::span<const float> amax_w, double strength) {
  OVERPROOF_CHECK(amax_x.size() == amax_w.size());
  std::vector<double> logs(amax_x.size());
  double mean = 0;
  for (size_t j = 0; j < logs.size(); ++j) {
    logs[j] = strength * std::log(std::max(double(amax_x[j]), kSmallest)) -
              (1 - strength) * std::log(std::max(double(amax_w[j]), kSmallest));
    mean += logs[j] / double(logs.size());
  }
  for (double& s : logs) s = std::exp(s - mean);
  return logs;
}

void smooth_statistics(LinearStatistics& statistics, std::span<const float> s) {
  const size_t in = size_t(statistics.columns);
  OVERPROOF_CHECK(s.size() == in);
  std::vector<float> least(in, 0.0f), largest(in, 0.0f);
  for (size_t i = 0; i < statistics.samples.size(); ++i) {
    float& x = statistics.samples[i];
    x /= s[i % in];
    least[i % in] = std::min(least[i % in], x);
    largest[i % in] = std::max(largest[i % in], x);
  }
  statistics.least = statistics.largest = 0;
  for (size_t c = 0; c < in; ++c) {
    statistics.amax[c] /= s[c];
    const float seen = std::max(-least[c], largest[c]), amax = statistics.amax[c],
                stretch = seen > 0 ? std::max(1.0f, amax / seen) : 0.0f;
    // A channel that is zero in all samples may have either sign.
    statistics.least = std::min(statistics.least, seen > 0 ? least[c] * stretch : -amax);
    statistics.largest = std::max(statistics.largest, seen > 0 ? largest[c] * stretch : amax);
  }
  for (size_t i = 0; i < statistics.hessian.size(); ++i) statistics.hessian[i] /= s[i / in] * s[i % in];
}

std::vector<SmoothSite> smooth_sites(const Json& config, const TensorSource& tensors,
                                     const std::function<bool(const std::string&)>& is_quantized) {
  check_kind(Architecture(config).model_type());
  const fs::path folder = tensors.files().empty() ? fs::path() : tensors.files().front().parent_path();
  const JsonObject object(config, folder / "config.json", "", JsonNull::absent);
  SiteList sites(tensors, folder, is_quantized);
  for (const auto& [number, layer] : layers_of(tensors)) {
    if (layer.input_norm.empty() || layer.q.empty() || layer.v.empty()) continue;  // a layer of another kind
    sites.add({.producers = {layer.input_norm}}, {layer.q, layer.k, layer.v});

    SmoothSite o{.producers = {layer.v}};
    if (!layer.v_bias.empty()) o.producers.push_back(layer.v_bias);
    const int64_t heads = object.integer("num_attention_heads", 0, INT32_MAX, 0),
                  kv_heads = object.integer("num_key_value_heads", 0, INT32_MAX, heads);
    if (map_heads(sites, layer, heads, kv_heads, o)) sites.add(std::move(o), {layer.o});

    if (layer.post_norm.empty()) continue;
    std::vector<std::string> readers;
    for (const auto& [order, ffn] : layer.ffns)
      if (!ffn.up.empty()) readers.insert(readers.end(), {ffn.gate, ffn.up});
    SmoothSite post{.producers = {layer.post_norm}};
    if (!layer.router.empty()) post.compensated.push_back(layer.router);
    sites.add(std::move(post), readers);
    for (const auto& [order, ffn] : layer.ffns)
      if (!ffn.up.empty()) {
        SmoothSite down{.producers = {ffn.up}};
        if (!ffn.up_bias.empty()) down.producers.push_back(ffn.up_bias);
        sites.add(std::move(down), {ffn.down});
      }
  }
  return sites.take();
}

SmoothResult smooth(const SmoothSite& site, const TensorSource& tensors, const ActivationStatistics& statistics,
                    const SmoothOptions& options) {
  // Inputs that several consumers share are read once.
  std::map<std::string, std::vector<std::string>> inputs;
  std::vector<float> amax_x(size_t(site.channels), 0.0f), amax_w(size_t(site.channels), 0.0f);
  const int64_t columns = tensors.find(site.consumers[0])->shape[1];
  for (const std::string& weight : site.consumers) {
    each_piece(tensors, weight, [&](int64_t rows, int64_t width, std::span<const float> values) {
      OVERPROOF_CHECK(width == columns);
      for (int64_t i = 0; i < rows * width; ++i) {
        float& a = amax_w[size_t(channel(site, i % width))];
        a = std::max(a, std::abs(values[size_t(i)]));
      }
    });
    const std::string* group = statistics.group_of(weight);
    if (!group || statistics.tokens(*group) < std::max<int64_t>(1, options.min_tokens)) continue;
    if (statistics.columns(*group) != columns)
      throw MismatchError(fmt::format("{}: records {} channels for '{}', which has {} columns", statistics.path().string(),
                                      statistics.columns(*group), weight, columns));
    inputs[*group].push_back(weight);
  }
  if (inputs.empty()) return {};
  for (const auto& [group, weights] : inputs) {
    const LinearStatistics seen = statistics.read(group, ActivationStatistics::Parts::small);
    for (int64_t c = 0; c < columns; ++c) {
      float& a = amax_x[size_t(channel(site, c))];
      a = std::max(a, seen.amax[size_t(c)]);
    }
  }
  if (options.strength) {
    Candidate only = make_candidate(site, columns, options.strength, amax_x, amax_w);
    return {std::move(only.factors), *options.strength, 1.0};
  }
  // No smoothing comes first, so that it wins ties.
  std::vector<Candidate> candidates = {make_candidate(site, columns, std::nullopt, amax_x, amax_w)};
  for (int k = 1; k <= kStrengths; ++k)
    candidates.push_back(make_candidate(site, columns, double(k) / (kStrengths + 1), amax_x, amax_w));
  std::vector<double> errors(candidates.size(), 0.0);
  const int64_t limit = std::clamp<int64_t>(kSearchRows * 8 / int64_t(inputs.size()), kFewestRows, kSearchRows);
  for (const auto& [group, weights] : inputs) {
    const LinearStatistics seen = statistics.read(group, ActivationStatistics::Parts::samples);
    if (seen.sample_rows == 0) continue;
    const Samples samples = take_samples(seen, candidates, options.activations, limit);
    for (const std::string& weight : weights)
      add_errors(tensors, weight, samples, candidates, options.weight_group, double(seen.tokens), errors);
  }
  const size_t best = size_t(std::ranges::min_element(errors) - errors.begin());
  if (best == 0) return {};
  return {std::move(candidates[best].factors), *candidates[best].strength, errors[best] / errors[0]};
}

}  // namespace overproof
