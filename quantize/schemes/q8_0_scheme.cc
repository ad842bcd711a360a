// ggml's Q8_0 for GGUF files.

#include "quantize/kernels/q8_0.h"
#include "quantize/schemes/schemes.h"

namespace overproof {
namespace {

class Q8Rows final : public TypedRowQuantizer<Q8Rows> {
 public:
  explicit Q8Rows(int64_t columns) : columns_(columns) {}

  template <class In>
  RowsResult rows(int64_t first_row, int64_t rows, std::span<const In> x, std::span<uint8_t> bytes, std::span<float>) const {
    RowsResult result;
    for (int64_t r = 0; r < rows; ++r)
      if (!row_kernels().of<In>().q8_0(&x[size_t(r * columns_)], columns_, &bytes[size_t(r * columns_ / kQ8Values * kQ8Bytes)],
                                       result.error) &&
          result.bad_row < 0)
        result.bad_row = first_row + r;
    return result;
  }

  std::vector<uint8_t> side_output(int, std::span<const float>) const override { return {}; }

 private:
  int64_t columns_;
};

/// Rows of blocks of 34 bytes that contain their scales: one tensor, as GGUF's Q8_0. Rows with magnitudes from 8.3 million on,
/// whose scale f16 cannot hold, are refused like infinities. Takes weights whose number of columns 32 divides.
class Q8_0 final : public Scheme {
 public:
  std::string_view name() const override { return "q8_0"; }
  std::string_view format() const override { return "gguf"; }
  Container container() const override { return Container::gguf; }
  int64_t weight_group() const override { return kQ8Values; }
  bool takes(const TensorInfo& weight) const override { return Scheme::takes(weight) && weight.shape[1] % kQ8Values == 0; }
  std::vector<TensorInfo> outputs(const TensorInfo& weight) const override {
    return {{weight.name, DType::u8, {weight.shape[0], row_bytes(weight.shape[1])}}};
  }
  int64_t row_bytes(int64_t columns) const override { return columns / kQ8Values * kQ8Bytes; }
  int64_t row_scales(int64_t, int64_t) const override { return 0; }
  std::unique_ptr<RowQuantizer> prepare(const TensorInfo& weight, const WeightFacts&) const override {
    return std::make_unique<Q8Rows>(weight.shape[1]);
  }
  Json config_group() const override { return nullptr; }
  Json quantization_config(const std::vector<std::string>&) const override { return nullptr; }
};

}  // namespace

std::unique_ptr<Scheme> make_q8_0(const SchemeOptions&) { return std::make_unique<Q8_0>(); }

}  // namespace overproof
