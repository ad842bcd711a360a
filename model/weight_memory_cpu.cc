#include "model/weight_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace overproof {
namespace {

constexpr int64_t kLargePage = 2 << 20, kLargestBlock = 64 << 20, kLine = 64;

int64_t whole(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

at::Tensor new_block(int64_t size) {
  void* memory = std::aligned_alloc(size_t(kLargePage), size_t(size));
  if (!memory) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(memory, size_t(size), MADV_HUGEPAGE);  // a wish: without large pages everything works, more slowly
#endif
  return at::from_blob(memory, {size}, [](void* p) { std::free(p); }, at::TensorOptions().dtype(at::kByte));
}

}  // namespace

at::Tensor WeightMemory::take(at::IntArrayRef shape, at::ScalarType type) {
  int64_t bytes = int64_t(c10::elementSize(type));
  for (const int64_t d : shape) bytes *= d;
  used_ = whole(used_, kLine);
  if (!block_.defined() || used_ + bytes > block_.numel()) {
    block_ = new_block(whole(std::max(bytes, next_size_), kLargePage));
    next_size_ = std::min(2 * next_size_, kLargestBlock);
    used_ = 0;
  }
  const at::Tensor part = block_.narrow(0, used_, bytes);
  used_ += bytes;
  return part.view(type).view(shape);
}

}  // namespace overproof
