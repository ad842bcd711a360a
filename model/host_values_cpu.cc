#include <ATen/ATen.h>

#include "core/error.h"
#include "model/host_values.h"

namespace overproof {
namespace {

void require_host_memory(const at::Tensor& tensor) {
  OVERPROOF_CHECK(tensor.defined() && tensor.device().is_cpu() && tensor.is_contiguous());
}

}  // namespace

template <class T>
std::span<const T> host_values(const at::Tensor& tensor) {
  require_host_memory(tensor);
  OVERPROOF_CHECK(tensor.scalar_type() == c10::CppTypeToScalarType<T>::value);
  return {tensor.const_data_ptr<T>(), size_t(tensor.numel())};
}

template <class T>
std::span<T> mutable_host_values(const at::Tensor& tensor) {
  require_host_memory(tensor);
  OVERPROOF_CHECK(tensor.scalar_type() == c10::CppTypeToScalarType<T>::value);
  tensor.unsafeGetTensorImpl()->bump_version();  // copies in other types are made again (ops/products.h)
  return {tensor.mutable_data_ptr<T>(), size_t(tensor.numel())};
}

std::span<const uint8_t> host_bytes(const at::Tensor& tensor) {
  require_host_memory(tensor);
  return {static_cast<const uint8_t*>(tensor.const_data_ptr()), size_t(tensor.nbytes())};
}

std::span<uint8_t> mutable_host_bytes(const at::Tensor& tensor) {
  require_host_memory(tensor);
  tensor.unsafeGetTensorImpl()->bump_version();
  return {static_cast<uint8_t*>(tensor.mutable_data_ptr()), size_t(tensor.nbytes())};
}

template std::span<const float> host_values(const at::Tensor&);
template std::span<const double> host_values(const at::Tensor&);
template std::span<const int32_t> host_values(const at::Tensor&);
template std::span<const int64_t> host_values(const at::Tensor&);
template std::span<const int8_t> host_values(const at::Tensor&);
template std::span<int8_t> mutable_host_values(const at::Tensor&);
template std::span<float> mutable_host_values(const at::Tensor&);
template std::span<double> mutable_host_values(const at::Tensor&);
template std::span<int32_t> mutable_host_values(const at::Tensor&);
template std::span<int64_t> mutable_host_values(const at::Tensor&);

}  // namespace overproof
