#pragma once
// A GPU made of loops: it walks the very kernel bodies of quantize/gpu/gpu_kernels.h, block by block, phase by phase, thread by
// thread, and multiplies as cuBLASLt documents it, column-major, padding, scale orders and all. Behind the plugin's own table of
// functions, so everything above that table is tested as it runs on a GPU.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "quantize/gpu/gpu_dispatch.h"
#include "quantize/gpu/gpu_plugin.h"

namespace overproof::emulated {

/// What the emulated device is, and what is wrong with it.
struct Device {
  int32_t capability = 90;
  enum class Fault { none, flipped_code, wrong_sum, failing_call, no_driver } fault = Fault::none;
  std::string error;
  std::map<void*, int64_t> memory;  ///< live allocations
  int64_t blocks = 0;               ///< blocks walked so far
  bool overrun = false;             ///< something wrote behind its memory
};
inline Device& device() {
  static Device the_device;
  return the_device;
}

inline constexpr int64_t kCanary = 64;

inline int32_t fail(std::string why) {
  device().error = std::move(why);
  return 1;
}

/// Walks a body. Threads of a phase run in an order that changes from block to block, and shared memory begins as rubbish: a body
/// that depends on an order, or on a value that was never written, gives other codes than the CPU.
struct Walk {
  template <class Body>
  void operator()(const Body& body, int64_t blocks) const {
    for (int64_t block = 0; block < blocks; ++block) {
      typename Body::Shared shared;
      std::memset(static_cast<void*>(&shared), 0xcd, sizeof(shared));
      for (int phase = 0; phase < Body::kPhases; ++phase)
        for (int i = 0; i < gpu::kThreads; ++i) {
          const int thread = block % 3 == 0 ? i : block % 3 == 1 ? gpu::kThreads - 1 - i : i * 77 % gpu::kThreads;
          body.run(phase, block, thread, shared);
        }
    }
    device().blocks += blocks;
  }
};

template <class Job>
int32_t walk(const Job& job) {
  if (device().fault == Device::Fault::failing_call) return fail("the emulated device fell off the bus");
  return gpu::dispatch(job, Walk{}) ? 0 : fail("no kernel takes these types");
}

inline float operand(const void* p, ElementType type, int64_t i) {
  switch (type) {
    case ElementType::int8:
      return float(static_cast<const int8_t*>(p)[i]);
    case ElementType::f8_e4m3:
      return f8_e4m3_to_f32(static_cast<const uint8_t*>(p)[i]);
    default:
      return bf16_to_f32(static_cast<const uint16_t*>(p)[i]);
  }
}

/// Scale of element (l, i) of an operand [k, outer], as the cuBLAS manual lays scales out.
inline double operand_scale(MatmulScale mode, const float* scales, int64_t l, int64_t i, int64_t k, int64_t outer) {
  const int64_t blocks = (k + 127) / 128;
  switch (mode) {
    case MatmulScale::none:
      return 1;
    case MatmulScale::scalar:
      return scales[0];
    case MatmulScale::outer_vector:
      return scales[i];
    case MatmulScale::vector_128:
      return scales[l / 128 * outer + i];  // outer-major, outer x L
    case MatmulScale::block_128:
      return scales[i / 128 * ((blocks + 3) / 4 * 4) + l / 128];  // k-major, L rounded up to 4
  }
  return 0;
}

/// What cuBLASLt refuses, by its manual.
inline const char* refused(const MatmulJob& job) {
  const int32_t capability = device().capability;
  const bool fp8 = job.ab == ElementType::f8_e4m3;
  if (reinterpret_cast<uintptr_t>(job.a) % 16 || reinterpret_cast<uintptr_t>(job.b) % 16 ||
      reinterpret_cast<uintptr_t>(job.d_out) % 16)
    return "pointers are not aligned";
  if (job.lda < job.k || job.ldb < job.k || job.ldd < job.m) return "leading dimension too small";
  if (job.ab == ElementType::int8 &&
      (job.d != ElementType::int32 || job.m % 4 || job.k % 4 || job.lda % 4 || job.ldb % 4 || job.ldd % 4))
    return "int8 needs int32 sums and multiples of 4";
  if (fp8 && capability < 89) return "no fp8 here";
  if (fp8 &&
      (job.k % 16 || job.lda % 16 || job.ldb % 16 || job.m * element_bytes(job.d) % 16 || job.ldd * element_bytes(job.d) % 16))
    return "fp8 needs rows of 16 bytes";
  if (!fp8 && (job.a_scale != MatmulScale::none || job.b_scale != MatmulScale::none)) return "scales are for fp8 only";
  const auto hopper_only = [](MatmulScale s) {
    return s == MatmulScale::outer_vector || s == MatmulScale::vector_128 || s == MatmulScale::block_128;
  };
  if ((hopper_only(job.a_scale) || hopper_only(job.b_scale)) && capability != 90) return "these scales are for 9.0";
  if (job.a_scale == MatmulScale::block_128 && job.b_scale == MatmulScale::block_128) return "one operand has to have vectors";
  const bool blocks = job.a_scale == MatmulScale::block_128 || job.a_scale == MatmulScale::vector_128;
  if (blocks && (job.m % 4 || job.n % 4)) return "block scales need multiples of 4";
  return nullptr;
}

inline int32_t check_matmul(const MatmulJob* job) {
  const char* why = refused(*job);
  return why == nullptr ? 0 : fail(why);
}

inline int32_t matmul(void*, const MatmulJob* job) {
  if (const int32_t bad = check_matmul(job)) return bad;
  for (int64_t j = 0; j < job->n; ++j)
    for (int64_t i = 0; i < job->m; ++i) {
      const int64_t at = j * job->ldd + i;
      double sum = 0;  // of products in f32 precision or integers: exact enough to be right for either
      for (int64_t l = 0; l < job->k; ++l)
        sum += double(operand(job->a, job->ab, i * job->lda + l)) * operand(job->b, job->ab, j * job->ldb + l) *
               operand_scale(job->a_scale, job->a_scales, l, i, job->k, job->m) *
               operand_scale(job->b_scale, job->b_scales, l, j, job->k, job->n);
      if (device().fault == Device::Fault::wrong_sum && i == 3) sum += job->d == ElementType::int32 ? 1 : 0.1 * std::abs(sum) + 1;
      if (job->d == ElementType::int32) static_cast<int32_t*>(job->d_out)[at] = int32_t(sum);
      else if (job->d == ElementType::bf16) static_cast<uint16_t*>(job->d_out)[at] = f32_to_bf16(float(sum));
      else static_cast<float*>(job->d_out)[at] = float(sum);
    }
  return 0;
}

inline int32_t allocate(void*, int64_t bytes, void** memory) {
  *memory = std::aligned_alloc(256, size_t((bytes + kCanary + 255) / 256 * 256));
  std::memset(*memory, 0, size_t(bytes));
  std::memset(static_cast<uint8_t*>(*memory) + bytes, 0x5a, kCanary);
  device().memory[*memory] = bytes;
  return 0;
}
inline void release(void*, void* memory) {
  const uint8_t* end = static_cast<const uint8_t*>(memory) + device().memory.at(memory);
  for (int64_t i = 0; i < kCanary; ++i) device().overrun |= end[i] != 0x5a;
  device().memory.erase(memory);
  std::free(memory);
}
inline int32_t copy(void*, void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<uint8_t*>(to) + r * to_pitch, static_cast<const uint8_t*>(from) + r * from_pitch, size_t(row_bytes));
  return 0;
}
inline int32_t quantize(void*, const QuantizeJob* job) {
  const int32_t bad = walk(*job);
  if (device().fault == Device::Fault::flipped_code) job->codes[(job->tiles.rows - 1) * job->code_stride] ^= 1;
  return bad;
}
inline int32_t errors(void*, const ErrorJob* job) { return walk(*job); }
inline int32_t dequantize(void*, const DequantizeJob* job) { return walk(*job); }
inline int32_t scale(void*, const ScaleJob* job) { return walk(*job); }

inline int32_t device_count(int32_t* count) {
  *count = device().fault == Device::Fault::no_driver ? 0 : 1;
  return *count == 1 ? 0 : fail("the emulated driver is missing");
}
inline int32_t device_info(int32_t, GpuDeviceInfo* info) {
  *info = {"emulated", device().capability, 1, 1 << 30};
  return 0;
}
inline int32_t open(int32_t, void** session) {
  *session = &device();
  return 0;
}

inline const GpuApi& api() {
  static const GpuApi table{kGpuApiVersion, sizeof(GpuApi), [] { return device().error.c_str(); },
                            device_count,   device_info,    open,
                            [](void*) {},   allocate,       release,
                            copy,           copy,           quantize,
                            errors,         dequantize,     scale,
                            check_matmul,   matmul};
  return table;
}

}  // namespace overproof::emulated
