#pragma once
// The number type in which the CPU multiplies matrices.
//
// With bf16 the operands of products are rounded to bf16 (8 significant bits); sums inside a product are f32. Weights remain f32
// (the masters that an optimizer changes), and so do the residual stream, norms, softmax, router, losses and the gradients of
// weights. Activations between products (the outputs of norms, of the projections and of SwiGLU) are kept in bf16, which halves
// their memory. This pays where the processor multiplies bf16 itself (AVX512_BF16, AMX); elsewhere it is slower than f32.

#include <ATen/core/Tensor.h>

namespace overproof::ops {

enum class ProductType { f32, bf16 };

/// Of all products of this process whose operands are f32 on the CPU; f32 unless set. Set it between passes, not during one.
ProductType product_type();
void set_product_type(ProductType type);

/// Sets the type, and puts the earlier one back.
class ProductTypeScope {
 public:
  explicit ProductTypeScope(ProductType type) : before_(product_type()) { set_product_type(type); }
  ~ProductTypeScope() { set_product_type(before_); }
  ProductTypeScope(const ProductTypeScope&) = delete;
  ProductTypeScope& operator=(const ProductTypeScope&) = delete;

 private:
  ProductType before_;
};

/// The type of an activation that is an operand of products, in a model whose other values are of type `model`.
at::ScalarType operand_type(const at::Tensor& model_values);

/// bf16 copy of an f32 weight on the CPU. One copy is kept until the weight changes or is freed, so that a step rounds each
/// weight once, however often it uses it. Changes are seen by the tensor's version: operations of libtorch and
/// mutable_host_values() count it up, writes through a plain pointer do not.
at::Tensor bf16_copy(const at::Tensor& weight);

namespace cpu {
/// out = a @ b as matmul_into() does, f32, with operands rounded to bf16 inside the product where that makes it faster: for results
/// that have to be more exact than bf16, such as logits.
void matmul_bf16_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);

/// Contiguous, as bf16 or f32; the tensor itself where it is so already. Not differentiable.
at::Tensor to_bf16(const at::Tensor& t);
at::Tensor to_f32(const at::Tensor& t);
}  // namespace cpu

}  // namespace overproof::ops
