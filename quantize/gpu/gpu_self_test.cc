#include "quantize/gpu/gpu_self_test.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/rng.h"

namespace overproof {
namespace {

constexpr uint64_t kSeed = 20;

std::string_view type_name(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return "f32";
    case ElementType::bf16:
      return "bf16";
    case ElementType::int8:
      return "int8";
    case ElementType::f8_e4m3:
      return "fp8";
    case ElementType::int32:
      return "int32";
  }
  return "unknown";
}

struct Layout {
  std::string_view name;
  ScaleTiles tiles;
};

std::vector<Layout> layouts(int64_t rows, int64_t columns) {
  return {{"per row", per_row(rows, columns)},
          {"per group of 128", per_group(rows, columns, 128)},
          {"per 128x128 block", per_block(rows, columns, 128)},
          {"per tensor", per_tensor(rows, columns)}};
}

/// A matrix as bytes of f32 or bf16, dense.
struct Matrix {
  ElementType type;
  int64_t rows, columns;
  std::vector<uint8_t> bytes;
  void set(int64_t i, float x) {
    const uint16_t half = f32_to_bf16(x);
    if (type == ElementType::bf16) std::memcpy(&bytes[size_t(i) * 2], &half, 2);
    else std::memcpy(&bytes[size_t(i) * 4], &x, 4);
  }
};

Matrix blank(ElementType type, int64_t rows, int64_t columns) {
  return {type, rows, columns, std::vector<uint8_t>(size_t(rows * columns * element_bytes(type)))};
}

/// Normal numbers whose spread changes from row to row; ties, zeros and a row of zeros among them.
Matrix random_matrix(ElementType type, int64_t rows, int64_t columns, std::string_view stream) {
  Matrix m = blank(type, rows, columns);
  Rng rng(kSeed, stream);
  for (int64_t i = 0; i < rows * columns; ++i) {
    const double spread = std::ldexp(0.02, int(i / columns % 7) - 3);
    const uint64_t kind = rng.below(16);
    const double x = kind == 0 ? 0.0 : kind == 1 ? double(int64_t(rng.below(255)) - 127) * spread / 64 : rng.normal() * spread;
    m.set(i, rows > 2 && i / columns == 1 ? 0.0f : float(x));
  }
  return m;
}

/// Every bf16 there is; 256 in a row, so the rows of 0x7f80-0x7fff and 0xff80-0xffff hold the infinities and NaNs.
Matrix every_bf16() {
  Matrix m = blank(ElementType::bf16, 256, 256);
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t bits = uint16_t(i);
    std::memcpy(&m.bytes[size_t(i) * 2], &bits, 2);
  }
  return m;
}

struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<TileError> errors;
  uint64_t bad_row = kNoBadRow;
};

QuantizeJob job_for(const Matrix& m, ElementType codes, const ScaleTiles& tiles, Quantized& out,
                    const std::vector<float>* given = nullptr) {
  out.codes.assign(size_t(m.rows * m.columns), 0xee);
  out.scales = given != nullptr ? *given : std::vector<float>(size_t(tiles.count()), -1.0f);
  out.bad_row = kNoBadRow;
  out.errors.assign(size_t(tiles.rows * tiles.across()), {-1, -1});
  const uint32_t flip = m.rows == 3 ? 0x80 : 0;  // includes packed codes
  return {tiles,     m.type,           codes,     given != nullptr,  flip,         m.bytes.data(),
          m.columns, out.codes.data(), m.columns, out.scales.data(), &out.bad_row, nullptr};
}

template <class T>
int64_t differing(const std::vector<T>& a, const std::vector<T>& b) {
  int64_t n = 0;
  for (size_t i = 0; i < a.size(); ++i) n += std::memcmp(&a[i], &b[i], sizeof(T)) != 0;
  return n;
}

class Checks {
 public:
  explicit Checks(GpuSession& gpu) : gpu_(gpu) {}

  /// Runs `body(check)`; a call that fails is a check that failed.
  template <class Body>
  void run(std::string name, Body&& body) {
    GpuCheck check;
    check.name = std::move(name);
    try {
      body(check);
      check.passed = check.compared > 0 && check.different == 0;
    } catch (const Error& e) {
      check.note = e.what();
    }
    list.push_back(std::move(check));
  }

  void quantize(const Matrix& m, ElementType codes, const Layout& layout, std::string_view what,
                const std::vector<float>* given = nullptr) {
    const std::string form = fmt::format("{} {} of {}", type_name(codes), layout.name, what);
    Quantized mine, theirs;
    const QuantizeJob here = job_for(m, codes, layout.tiles, mine, given);
    quantize_tiles(here);
    tile_errors({here, nullptr, mine.errors.data()});
    const bool finite = std::ranges::all_of(mine.scales, [](float s) { return std::isfinite(s); }) && mine.bad_row == kNoBadRow;
    run("quantize " + form, [&](GpuCheck& check) {
      const QuantizeJob there = job_for(m, codes, layout.tiles, theirs, given);
      gpu_.quantize(there, finite ? theirs.errors.data() : nullptr);
      check.compared = int64_t(mine.codes.size() + mine.scales.size()) + 1;
      check.different =
          differing(mine.codes, theirs.codes) + differing(mine.scales, theirs.scales) + (mine.bad_row != theirs.bad_row);
      if (!finite) return;  // NaN payloads depend on the hardware
      check.compared += int64_t(mine.errors.size());
      check.different += differing(mine.errors, theirs.errors);
    });
    if (std::ranges::any_of(mine.scales, [](float s) { return !std::isfinite(s); })) return;
    for (const ElementType out : {ElementType::f32, ElementType::bf16})
      run(fmt::format("dequantize {} to {}", form, type_name(out)), [&](GpuCheck& check) {
        Matrix a = blank(out, m.rows, m.columns), b = blank(out, m.rows, m.columns);
        DequantizeJob job{layout.tiles, codes, out, mine.codes.data(), m.columns, mine.scales.data(), a.bytes.data(), m.columns};
        dequantize_tiles(job);
        job.out = b.bytes.data();
        gpu_.dequantize(job);
        check.compared = m.rows * m.columns;
        check.different = differing(a.bytes, b.bytes);
      });
  }

  void gemm(ElementType type, GemmScaling scaling, int64_t tokens, int64_t outputs, int64_t columns, ElementType out);

  std::vector<GpuCheck> list;

 private:
  GpuSession& gpu_;
};

/// Allowed error of a product, relative to sum |x w| x scales: zero for exact paths; f32 sums little; fp8 tensor cores keep about
/// 14 bits while they add (DeepSeek-V3 report, section 3.3.2); operands rounded to bf16 2^-8 each.
double allowed_error(GemmPath path) {
  switch (path) {
    case GemmPath::int8_then_scale:
      return 0;
    case GemmPath::widen_then_scale:
      return 0x1p-14;
    case GemmPath::dequantize:
      return 0x1p-7;
    default:
      return 0x1p-9;
  }
}

void Checks::gemm(ElementType type, GemmScaling scaling, int64_t tokens, int64_t outputs, int64_t columns, ElementType out) {
  run(fmt::format("multiply {} {} [{}, {}] x [{}, {}] to {}", type_name(type), to_string(scaling), tokens, columns, outputs,
                  columns, type_name(out)),
      [&](GpuCheck& check) {
        const auto tiles = [&](int64_t rows, bool weight) {
          if (scaling == GemmScaling::per_tensor) return per_tensor(rows, columns);
          if (scaling == GemmScaling::token_channel) return per_row(rows, columns);
          return weight ? per_block(rows, columns, 128) : per_group(rows, columns, 128);
        };
        Quantized x, w;
        const Matrix xs = random_matrix(ElementType::f32, tokens, columns, "gpu/x"),
                     ws = random_matrix(ElementType::f32, outputs, columns, "gpu/w");
        quantize_tiles(job_for(xs, type, tiles(tokens, false), x));
        quantize_tiles(job_for(ws, type, tiles(outputs, true), w));
        const CodeMatrix a{type, tiles(tokens, false), x.codes.data(), x.scales.data()},
            b{type, tiles(outputs, true), w.codes.data(), w.scales.data()};
        std::vector<float> expected(size_t(tokens * outputs)), sizes(expected.size());
        reference_gemm(a, b, expected.data());
        // The error is relative to |x| times |w|. The sign of a code is its top bit in fp8, negation in int8.
        const auto magnitudes = [&](std::vector<uint8_t> codes) {
          for (uint8_t& c : codes) c = type == ElementType::int8 ? uint8_t(std::abs(int(int8_t(c)))) : uint8_t(c & 0x7f);
          return codes;
        };
        const std::vector<uint8_t> xm = magnitudes(x.codes), wm = magnitudes(w.codes);
        reference_gemm({type, a.tiles, xm.data(), a.scales}, {type, b.tiles, wm.data(), b.scales}, sizes.data());

        Matrix got = blank(out, tokens, outputs);
        const GemmPlan plan = gpu_.gemm(a, b, out, got.bytes.data());
        check.note = to_string(plan.path);
        check.compared = tokens * outputs;
        for (int64_t i = 0; i < check.compared; ++i) {
          float value;
          uint16_t half;
          std::memcpy(&half, &got.bytes[size_t(i) * 2], 2);
          if (out == ElementType::bf16) value = bf16_to_f32(half);
          else std::memcpy(&value, &got.bytes[size_t(i) * 4], 4);
          const float exact = expected[size_t(i)], rounded = out == ElementType::bf16 ? bf16_to_f32(f32_to_bf16(exact)) : exact;
          double error = std::abs(double(value) - rounded);
          if (plan.path != GemmPath::int8_then_scale) {
            // Another order of additions may round to the neighbouring bf16.
            const double limit =
                allowed_error(plan.path) * sizes[size_t(i)] + (out == ElementType::bf16 ? 0x1p-8 * std::abs(double(rounded)) : 0);
            error = error == 0 ? 0 : limit == 0 ? 2 : error / limit;
          } else if (error != 0) {
            error = 2;
          }
          if (!(error <= 1)) ++check.different;  // a NaN counts
          check.worst = std::max(check.worst, std::isnan(error) ? 2.0 : error);
        }
      });
}

void check_codes(Checks& checks) {
  const Matrix all = every_bf16();
  Matrix poisoned = random_matrix(ElementType::f32, 300, 260, "gpu/poisoned");
  poisoned.set(131 * 260 + 259, std::nanf(""));
  poisoned.set(140 * 260 + 3, -HUGE_VALF);
  for (const ElementType codes : {ElementType::int8, ElementType::f8_e4m3}) {
    for (const Layout& layout : layouts(256, 256)) checks.quantize(all, codes, layout, "every bf16");
    for (const float scale : {1.0f, 1.0f / 3.0f, 3.1e-5f}) {
      const std::vector<float> given{scale};
      checks.quantize(all, codes, {"at a given scale", per_tensor(256, 256)}, fmt::format("every bf16 at {}", scale), &given);
    }
    for (const Layout& layout : layouts(300, 260)) checks.quantize(poisoned, codes, layout, "f32 with a NaN and an infinity");
    for (const ElementType type : {ElementType::f32, ElementType::bf16})
      for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 577}, {130, 1026}, {257, 516}}) {
        const Matrix m = random_matrix(type, rows, columns, "gpu/weights");
        for (const Layout& layout : layouts(rows, columns))
          checks.quantize(m, codes, layout, fmt::format("{} [{}, {}]", type_name(type), rows, columns));
      }
  }
}

void check_products(Checks& checks) {
  for (const ElementType type : {ElementType::int8, ElementType::f8_e4m3})
    for (const GemmScaling scaling : {GemmScaling::per_tensor, GemmScaling::token_channel, GemmScaling::block_128})
      for (const ElementType out : {ElementType::f32, ElementType::bf16})
        for (const auto& [tokens, outputs, columns] :
             {std::array<int64_t, 3>{1, 5, 7}, {5, 130, 300}, {33, 257, 129}, {16, 256, 256}})
          checks.gemm(type, scaling, tokens, outputs, columns, out);
}

}  // namespace

std::vector<GpuCheck> gpu_self_test(GpuSession& gpu, GpuParts parts) {
  Checks checks(gpu);
  if (parts != GpuParts::products) check_codes(checks);
  if (parts != GpuParts::codes) check_products(checks);
  return checks.list;
}

}  // namespace overproof
