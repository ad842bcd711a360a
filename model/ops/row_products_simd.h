// The kernels of row_products_cpu.cc, written once for all instruction sets. That file includes it, once in a
// namespace per set, after OVERPROOF_SIMD (the target attribute), Lanes (16 floats), how many rows and columns have sums that fit the
// registers: kRows x kColumns, and kColumnsOfOne of a single row, and store_sums(), which adds up kSumsAtOnce of them together, each in the
// order of sum(): the columns of a narrow expert are so short that one after another these sums take longer than the products.

/// Asks for memory that is read soon. The hardware does not see a stream in columns that are read side by side.
OVERPROOF_SIMD inline void prefetch_part(const void* from, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(static_cast<const char*>(from) + b);
}

/// Columns of numbers. `from(c)` are the columns from c on; prefetch() asks for what is kColumnsOfOne columns ahead.
template <class T>
struct Numbers {
  static constexpr int64_t kWidenFrom = std::numeric_limits<int64_t>::max();  // rows
  const T* at;
  int64_t stride, block;
  struct Factors {};
  explicit Numbers(const WeightView& w) : at(static_cast<const T*>(w.values)), stride(w.stride), block(w.block) {}
  Numbers(const T* at_, int64_t stride_, int64_t block_) : at(at_), stride(stride_), block(block_) {}
  Numbers from(int64_t column) const { return {at + column * stride, stride, block}; }
  OVERPROOF_SIMD Factors factors(int64_t, int64_t) const { return {}; }
  OVERPROOF_SIMD void prefetch_factors(int64_t, int64_t) const {}
  OVERPROOF_SIMD void prefetch(int64_t columns, int64_t i) const {
    prefetch_part(at + kColumnsOfOne * stride + columns * i, columns * 16 * int64_t(sizeof(T)));
  }
  OVERPROOF_SIMD Lanes whole(int64_t c, int64_t i, const Factors&) const { return load(at + c * stride + i); }
  OVERPROOF_SIMD Lanes part(int64_t c, int64_t i, int64_t count, const Factors&) const { return load_part(at + c * stride + i, count); }
};

/// Columns of codes.
template <bool kOffsets>
struct Codes {
  static constexpr int64_t kWidenFrom = 2 * kRows;
  const int8_t* at;
  const float *scales, *offsets;
  int64_t stride, blocks, block;
  struct Factors {
    Lanes scale, offset;
  };
  explicit Codes(const WeightView& w)
      : at(static_cast<const int8_t*>(w.values)), scales(w.scales), offsets(w.offsets), stride(w.stride), blocks(w.blocks), block(w.block) {}
  Codes from(int64_t column) const {
    Codes moved = *this;
    moved.at += column * stride;
    moved.scales += column * blocks;
    if (kOffsets) moved.offsets += column * blocks;
    return moved;
  }
  OVERPROOF_SIMD Factors factors(int64_t c, int64_t b) const {
    return {same(scales[c * blocks + b]), kOffsets ? same(offsets[c * blocks + b]) : zero()};
  }
  OVERPROOF_SIMD void prefetch(int64_t columns, int64_t i) const {
    prefetch_part(at + kColumnsOfOne * stride + columns * i, columns * 16);
  }
  OVERPROOF_SIMD void prefetch_factors(int64_t columns, int64_t b) const {
    __builtin_prefetch(scales + kColumnsOfOne * blocks + columns * b);
    if (kOffsets) __builtin_prefetch(offsets + kColumnsOfOne * blocks + columns * b);
  }
  OVERPROOF_SIMD static Lanes value(const Lanes& codes, const Factors& f) {
    const Lanes scaled = multiply(codes, f.scale);
    return kOffsets ? add(scaled, f.offset) : scaled;
  }
  OVERPROOF_SIMD Lanes whole(int64_t c, int64_t i, const Factors& f) const { return value(load(at + c * stride + i), f); }
  OVERPROOF_SIMD Lanes part(int64_t c, int64_t i, int64_t count, const Factors& f) const {
    return value(load_part(at + c * stride + i, count), f);
  }
};

/// y[r][c] = sum over i of x[r][i] w[c][i], for R rows and C columns: 16 chains each, then a tree. kTail: n need not be a multiple
/// of 16, and the sums do not stay in registers.
template <int R, int C, bool kTail, class W>
OVERPROOF_SIMD void product_block(const float* x, int64_t x_stride, const W& w, int64_t n, float* y, int64_t y_stride) {
  Lanes sums[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sums[r][c] = zero();
  for (int64_t begin = 0, b = 0; begin < n; begin += w.block, ++b) {
    const int64_t end = std::min(n, begin + w.block), whole = kTail ? begin + (end - begin) / 16 * 16 : end;
    typename W::Factors factors[C];
    w.prefetch_factors(C, b);
    for (int c = 0; c < C; ++c) factors[c] = w.factors(c, b);
    for (int64_t i = begin; i < whole; i += 16) {
      w.prefetch(C, i);
      Lanes column[C];
      for (int c = 0; c < C; ++c) column[c] = w.whole(c, i, factors[c]);
      for (int r = 0; r < R; ++r) {
        const Lanes row = load(x + r * x_stride + i);
        for (int c = 0; c < C; ++c) sums[r][c] = multiply_add(row, column[c], sums[r][c]);
      }
    }
    if constexpr (kTail) {
      if (whole == end) continue;
      for (int c = 0; c < C; ++c) {
        const Lanes column = w.part(c, whole, end - whole, factors[c]);
        for (int r = 0; r < R; ++r) sums[r][c] = multiply_add(load_part(x + r * x_stride + whole, end - whole), column, sums[r][c]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    if constexpr (C % kSumsAtOnce == 0) {
      for (int c = 0; c < C; c += kSumsAtOnce) store_sums(sums[r] + c, y + r * y_stride + c);
    } else {
      for (int c = 0; c < C; ++c) y[r * y_stride + c] = sum(sums[r][c]);
    }
  }
}

template <int C, class W>
OVERPROOF_SIMD void product_rows(const float* x, int64_t x_stride, int64_t rows, const W& w, int64_t n, float* y, int64_t y_stride) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) product_block<kRows, C, false>(x + r * x_stride, x_stride, w, n, y + r * y_stride, y_stride);
  for (; r + 2 <= rows; r += 2) product_block<2, C, false>(x + r * x_stride, x_stride, w, n, y + r * y_stride, y_stride);
  for (; r < rows; ++r) product_block<1, C, false>(x + r * x_stride, x_stride, w, n, y + r * y_stride, y_stride);
}

/// The values of C columns as f32, each in n numbers.
template <int C, class W>
OVERPROOF_SIMD void widen(const W& w, int64_t n, float* to) {
  for (int64_t begin = 0, b = 0; begin < n; begin += w.block, ++b) {
    typename W::Factors factors[C];
    w.prefetch_factors(C, b);
    for (int c = 0; c < C; ++c) factors[c] = w.factors(c, b);
    for (int64_t i = begin; i < std::min(n, begin + w.block); i += 16) {
      w.prefetch(C, i);
      for (int c = 0; c < C; ++c) store(to + c * n + i, w.whole(c, i, factors[c]));
    }
  }
}

template <class W>
OVERPROOF_SIMD void products(const float* x, int64_t x_stride, int64_t rows, const WeightView& weight, int64_t first, int64_t columns,
                             int64_t n, float* y, int64_t y_stride) {
  const W w = W(weight).from(first);
  int64_t c = 0;
  if (n % 16 != 0) {  // no model of note
    for (; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) product_block<1, 1, true>(x + r * x_stride, x_stride, w.from(c), n, y + r * y_stride + c, y_stride);
  } else if (rows == 1) {
    for (; c + kColumnsOfOne <= columns; c += kColumnsOfOne)
      product_block<1, kColumnsOfOne, false>(x, x_stride, w.from(c), n, y + c, y_stride);
  } else if (rows >= W::kWidenFrom) {  // columns are used several times, and values of codes take longer than those of numbers
    float* tile = scratch(kColumns * n);
    for (; c + kColumns <= columns; c += kColumns) {
      widen<kColumns>(w.from(c), n, tile);
      product_rows<kColumns>(x, x_stride, rows, Numbers<float>(tile, n, n), n, y + c, y_stride);
    }
  }
  for (; c + kColumns <= columns; c += kColumns) product_rows<kColumns>(x, x_stride, rows, w.from(c), n, y + c, y_stride);
  for (; c < columns; ++c) product_rows<1>(x, x_stride, rows, w.from(c), n, y + c, y_stride);
}

/// y[i] = sum over t of p[t] v[t][i], one chain of multiply-adds in the order of t; for 16 x K values.
template <int K>
OVERPROOF_SIMD void weighted_sums(const float* p, const float* v, int64_t v_stride, int64_t terms, float* y) {
  Lanes out[K];
  for (int k = 0; k < K; ++k) out[k] = zero();
  for (int64_t t = 0; t < terms; ++t) {
    const Lanes weight = same(p[t]);
    for (int k = 0; k < K; ++k) out[k] = multiply_add(weight, load(v + t * v_stride + 16 * k), out[k]);
  }
  for (int k = 0; k < K; ++k) store(y + 16 * k, out[k]);
}

OVERPROOF_SIMD inline void weighted_sum(const float* p, const float* v, int64_t v_stride, int64_t terms, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) weighted_sums<4>(p, v + i, v_stride, terms, y + i);
  for (; i + 16 <= n; i += 16) weighted_sums<1>(p, v + i, v_stride, terms, y + i);
  if (i == n) return;
  Lanes out = zero();
  for (int64_t t = 0; t < terms; ++t) out = multiply_add(same(p[t]), load_part(v + t * v_stride + i, n - i), out);
  float values[16];
  store(values, out);
  std::copy_n(values, n - i, y + i);
}

/// e^x for x in [-87, 0], below as for -87: 2^n times a polynomial on [-ln2 / 2, ln2 / 2]. Relative error below 2e-7. Coefficients: Cephes,
/// expf (Moshier).
OVERPROOF_SIMD inline Lanes exp_of(Lanes x) {
  x = larger(same(-87.0f), x);  // a NaN stays one
  const Lanes rounded = multiply_add(x, same(1.44269504f), same(12582912.0f));  // 1.5 x 2^23 + n: the low bits are n
  const Lanes n = add(rounded, same(-12582912.0f));
  const Lanes r = multiply_add(n, same(2.12194440e-4f), multiply_add(n, same(-0.693359375f), x));  // ln 2 in two parts
  Lanes p = same(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = multiply_add(p, r, same(c));
  p = add(multiply_add(multiply(p, r), r, r), same(1.0f));
  return multiply(p, power_of_two(rounded));
}

/// p[t] = e^(scale (p[t] - the largest)), over their sum.
OVERPROOF_SIMD inline void softmax(float* p, int64_t n, float scale) {
  Lanes most = same(p[0]);
  const int64_t whole = n / 16 * 16;
  for (int64_t t = 0; t < whole; t += 16) most = larger(most, load(p + t));
  float values[16], largest = p[0];
  store(values, most);
  for (const float x : values) largest = x > largest ? x : largest;
  for (int64_t t = whole; t < n; ++t) largest = p[t] > largest ? p[t] : largest;
  const Lanes shift = same(-largest), factor = same(scale);
  Lanes total = zero();
  for (int64_t t = 0; t < whole; t += 16) {
    const Lanes e = exp_of(multiply(add(load(p + t), shift), factor));
    store(p + t, e);
    total = add(total, e);
  }
  if (whole < n) {
    store(values, exp_of(multiply(add(load_part(p + whole, n - whole), shift), factor)));
    std::copy_n(values, n - whole, p + whole);
    total = add(total, load_part(p + whole, n - whole));
  }
  const float share = 1.0f / sum(total);
  for (int64_t t = 0; t < whole; t += 16) store(p + t, multiply(load(p + t), same(share)));
  for (int64_t t = whole; t < n; ++t) p[t] *= share;
}

const Kernels kKernels{kName,
                       {products<Numbers<float>>, products<Numbers<Bf16>>, products<Numbers<F16>>, products<Codes<false>>, products<Codes<true>>},
                       softmax,
                       weighted_sum};
