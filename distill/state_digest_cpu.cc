#include "distill/state_digest.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"

namespace overproof {
namespace {

constexpr int64_t kTokensPerDigest = 16384;  // benchmarks/provenance_overhead.py

std::vector<TensorDigest> digest_all(const std::vector<NamedTensor>& tensors) {
  // Largest first, so that one big tensor does not begin when all others are done.
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors[a].tensor.nbytes() > tensors[b].tensor.nbytes(); });
  std::vector<TensorDigest> digests(tensors.size());
  parallel_for(int64_t(tensors.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const NamedTensor& t = tensors[order[size_t(i)]];
      OVERPROOF_CHECK(t.tensor.is_contiguous());
      digests[order[size_t(i)]] = {
          t.name, t.tensor.scalar_type() == at::kLong ? DType::i64 : DType::f32, t.tensor.sizes().vec(),
          sha256(std::span(static_cast<const uint8_t*>(t.tensor.const_data_ptr()), size_t(t.tensor.nbytes())))};
    }
  });
  return digests;
}

const void* storage_of(const at::Tensor& tensor) { return tensor.storage().data(); }

}  // namespace

StateDigester::StateDigester(const Decoder& model, const Trainer& trainer) : model_(model), trainer_(trainer) {
  for (const NamedTensor& t : trainer.state()) trained_.insert(storage_of(t.tensor));
}

Digest StateDigester::weights() {
  std::vector<NamedTensor> wanted;
  std::vector<TensorDigest> digests;
  for (NamedTensor& t : stored_weights(model_)) {
    const auto known = frozen_.find(t.name);
    if (known == frozen_.end()) wanted.push_back(std::move(t));
    else digests.push_back({t.name, DType::f32, t.tensor.sizes().vec(), known->second});
  }
  const std::vector<TensorDigest> made = digest_all(wanted);
  for (size_t i = 0; i < made.size(); ++i) {
    if (!trained_.contains(storage_of(wanted[i].tensor))) frozen_[made[i].name] = made[i].digest;
    digests.push_back(made[i]);
  }
  return digest_of_tensors(std::move(digests));
}

Digest StateDigester::optimizer() const { return digest_of_tensors(digest_all(trainer_.optimizer_state())); }

int64_t StateDigester::bytes() const {
  int64_t sum = 0;
  for (const NamedTensor& t : trainer_.state()) sum += int64_t(t.tensor.nbytes());
  return sum;
}

Digest digest_of_weights(const Decoder& model) { return digest_of_tensors(digest_all(stored_weights(model))); }

Digest digest_rounded_as(const Decoder& model, const TensorSource& published, bool& rounded) {
  std::vector<TensorDigest> digests;
  for (const NamedTensor& t : stored_weights(model)) {
    const TensorInfo* info = published.find(t.name);
    const bool round = info && (info->dtype == DType::bf16 || info->dtype == DType::f16);
    rounded |= round;
    const at::Tensor values = round ? t.tensor.to(scalar_type_of(info->dtype)).to(at::kFloat) : t.tensor;
    digests.push_back({t.name, DType::f32, values.sizes().vec(),
                       sha256(std::span(static_cast<const uint8_t*>(values.const_data_ptr()), size_t(values.nbytes())))});
  }
  return digest_of_tensors(std::move(digests));
}

int64_t digest_interval(int64_t asked, int64_t step_tokens) {
  return asked >= 0 ? asked : std::max<int64_t>(1, (kTokensPerDigest + step_tokens - 1) / step_tokens);
}

}  // namespace overproof
