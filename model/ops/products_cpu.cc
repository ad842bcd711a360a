#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Context.h>

#include <atomic>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "model/ops/gemm.h"
#include "model/ops/linear.h"
#include "model/ops/products.h"
#include "model/ops/row_kernels_cpu.h"
#include "model/placement.h"

namespace overproof::ops {
namespace {

using at::Tensor;

std::atomic<ProductType> g_type = ProductType::f32;

struct Copy {
  c10::weak_intrusive_ptr<c10::TensorImpl> source;  // keeps the address from being given to another tensor
  uint32_t version;
  Tensor bf16;
};

struct Copies {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, Copy> of;

  void drop_freed() {
    std::erase_if(of, [](const auto& entry) { return entry.second.source.expired(); });
  }
};

Copies& copies() {
  static Copies all;
  return all;
}

}  // namespace

ProductType product_type() { return g_type; }

void set_product_type(ProductType type) {
  g_type = type;
  if (type == ProductType::bf16) return;
  const std::lock_guard lock(copies().mutex);
  copies().of.clear();
}

at::ScalarType operand_type(const Tensor& t) {
  return product_type() == ProductType::bf16 && has_cpu_kernels(placement_of(t)) ? at::kBFloat16 : t.scalar_type();
}

Tensor bf16_copy(const Tensor& weight) {
  OVERPROOF_CHECK(has_cpu_kernels(placement_of(weight)));
  c10::TensorImpl* impl = weight.unsafeGetTensorImpl();
  const uint32_t version = impl->version_counter().current_version();
  Copies& all = copies();
  const std::lock_guard lock(all.mutex);
  const auto found = all.of.find(impl);
  if (found != all.of.end()) {
    if (!found->second.source.expired() && found->second.version == version) return found->second.bf16;
    all.of.erase(found);  // frees its memory, unless a graph still needs it, before the next copy is made
  } else {
    all.drop_freed();  // a new tensor, such as a step's view of the head, comes when an old one is gone
  }
  at::NoGradGuard no_grad;
  const Tensor bf16 = cpu::to_bf16(weight.detach());
  all.of.emplace(impl, Copy{c10::weak_intrusive_ptr<c10::TensorImpl>(weight.getIntrusivePtr()), version, bf16});
  return bf16;
}

namespace cpu {

void matmul_bf16_into(const Tensor& out, const Tensor& a, const Tensor& b) {
  if (f32_by_onednn()) return cpu::matmul_into(out, a, b, false);
  // libtorch rounds f32 operands itself when it may, and keeps the result in f32.
  auto& context = at::globalContext();
  context.setFloat32MatmulPrecision("medium");
  try {
    cpu::matmul_into(out, a, b, false);
  } catch (...) {
    context.setFloat32MatmulPrecision("highest");
    throw;
  }
  context.setFloat32MatmulPrecision("highest");
}

Tensor to_bf16(const Tensor& t) {
  if (t.scalar_type() == at::kBFloat16) return t.contiguous();
  const Tensor from = t.contiguous(), to = at::empty(t.sizes(), t.options().dtype(at::kBFloat16));
  kernels::narrow(from.const_data_ptr<float>(), to.mutable_data_ptr<at::BFloat16>(), from.numel());
  return to;
}

Tensor to_f32(const Tensor& t) {
  if (t.scalar_type() == at::kFloat) return t.contiguous();
  const Tensor from = t.contiguous(), to = at::empty(t.sizes(), t.options().dtype(at::kFloat));
  kernels::widen(from.const_data_ptr<at::BFloat16>(), to.mutable_data_ptr<float>(), from.numel());
  return to;
}

}  // namespace cpu
}  // namespace overproof::ops
