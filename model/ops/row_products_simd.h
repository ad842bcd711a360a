// The kernels of row_products_cpu.cc, written once for all instruction sets. That file includes it, once in a
// namespace per set, after OVERPROOF_SIMD (the target attribute), Lanes (16 floats), kRows and kColumns (of the products whose sums
// fit the registers).

/// y[r][c] = sum over i of x[r][i] w[c][i], for R rows and C columns: 16 chains each, then a tree.
template <int R, int C, class W>
OVERPROOF_SIMD void product_block(const float* x, int64_t x_stride, const W* w, int64_t w_stride, int64_t n, float* y,
                                  int64_t y_stride) {
  Lanes sums[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sums[r][c] = zero();
  const int64_t whole = n / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    Lanes column[C];
    for (int c = 0; c < C; ++c) column[c] = load(w + c * w_stride + i);
    for (int r = 0; r < R; ++r) {
      const Lanes row = load(x + r * x_stride + i);
      for (int c = 0; c < C; ++c) sums[r][c] = multiply_add(row, column[c], sums[r][c]);
    }
  }
  if (whole < n) {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c)
        sums[r][c] = multiply_add(load_part(x + r * x_stride + whole, n - whole), load_part(w + c * w_stride + whole, n - whole),
                                  sums[r][c]);
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) y[r * y_stride + c] = sum(sums[r][c]);
}

template <int C, class W>
OVERPROOF_SIMD void product_rows(const float* x, int64_t x_stride, int64_t rows, const W* w, int64_t w_stride, int64_t n, float* y,
                                 int64_t y_stride) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    product_block<kRows, C>(x + r * x_stride, x_stride, w, w_stride, n, y + r * y_stride, y_stride);
  for (; r < rows; ++r) product_block<1, C>(x + r * x_stride, x_stride, w, w_stride, n, y + r * y_stride, y_stride);
}

template <class W>
OVERPROOF_SIMD void products(const float* x, int64_t x_stride, int64_t rows, const W* w, int64_t w_stride, int64_t columns, int64_t n,
                             float* y, int64_t y_stride) {
  int64_t c = 0;
  for (; c + kColumns <= columns; c += kColumns)
    product_rows<kColumns>(x, x_stride, rows, w + c * w_stride, w_stride, n, y + c, y_stride);
  for (; c < columns; ++c) product_rows<1>(x, x_stride, rows, w + c * w_stride, w_stride, n, y + c, y_stride);
}

/// y[i] = sum over t of p[t] v[t][i], one chain of multiply-adds in the order of t.
OVERPROOF_SIMD inline void weighted_sum(const float* p, const float* v, int64_t v_stride, int64_t terms, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
    Lanes out = zero();
    const int64_t left = n - i;
    if (left >= 16) {
      for (int64_t t = 0; t < terms; ++t) out = multiply_add(same(p[t]), load(v + t * v_stride + i), out);
    } else {
      for (int64_t t = 0; t < terms; ++t) out = multiply_add(same(p[t]), load_part(v + t * v_stride + i, left), out);
    }
    float values[16];
    store(values, out);
    std::copy_n(values, std::min<int64_t>(left, 16), y + i);
  }
}

const Kernels kKernels{products<float>, products<Bf16>, weighted_sum};
