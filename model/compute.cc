#include "model/compute.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "core/error.h"
#include "core/json.h"
#include "model/ops/gemm.h"
#include "model/ops/products.h"
#include "records/resume.h"

namespace overproof {
namespace {

/// What conversions cost next to smaller products outweighs the gain of narrower models.
constexpr int64_t kLeastHidden = 256;
/// Below this gain of products alone a step gains nothing.
constexpr double kLeastGain = 1.3;

bool processor_has_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

/// Rate of bf16 products over that of f32 products, by the CPU time of one thread; the least of several each, in turn. About 10 ms.
double measured_gain() {
  at::NoGradGuard no_grad;
  constexpr int64_t kSize = 384;
  const at::Tensor a = at::ones({kSize, kSize}), b = at::ones({kSize, kSize}), a16 = a.to(at::kBFloat16), b16 = b.to(at::kBFloat16);
  at::Tensor c = at::empty({kSize, kSize}), c16 = at::empty({kSize, kSize}, at::kBFloat16);
  double f32 = 1e30, bf16 = 1e30;
  at::parallel_for(0, 1, 1, [&](int64_t, int64_t) {});  // starts the library's threads
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  for (int r = 0; r < 6; ++r) {
    double start = thread_seconds();
    ops::cpu::gemm(c, a, b);
    f32 = std::min(f32, thread_seconds() - start);
    start = thread_seconds();
    ops::cpu::gemm(c16, a16, b16);
    bf16 = std::min(bf16, thread_seconds() - start);
  }
  at::set_num_threads(threads);
  return f32 / bf16;
}

}  // namespace

std::string ComputeChoice::summary() const {
  return gain > 0 ? fmt::format("products in {} (bf16 measured {:.1f} times as fast as f32)", name(), gain)
                  : fmt::format("products in {}", name());
}

ComputeChoice use_compute(Compute wanted, int64_t hidden_size) {
  ComputeChoice choice;
  if (wanted == Compute::bf16) {
    if (!processor_has_bf16())
      throw MismatchError(
          "products in bf16 are asked for (option 'compute'), but this processor has neither AVX512_BF16 nor AMX; use a processor "
          "that has, or f32");
    choice.type = Compute::bf16;
  } else if (wanted == Compute::automatic && hidden_size >= kLeastHidden && processor_has_bf16()) {
    choice.gain = measured_gain();
    if (choice.gain >= kLeastGain) choice.type = Compute::bf16;
  }
  ops::set_product_type(choice.type == Compute::bf16 ? ops::ProductType::bf16 : ops::ProductType::f32);
  return choice;
}

ComputeChoice use_compute(Compute wanted, int64_t hidden_size, const Outputs& outputs) {
  if (wanted != Compute::automatic) return use_compute(wanted, hidden_size);
  const fs::path folder = outputs.scratch() / "compute";
  Resume resume(folder, outputs.stage_key());
  if (const auto point = resume.read()) {
    const auto chosen = point->progress.find(kComputeMetric);
    if (chosen != point->progress.end() && (*chosen == "f32" || (*chosen == "bf16" && processor_has_bf16())))
      return use_compute(*chosen == "bf16" ? Compute::bf16 : Compute::f32, hidden_size);
  }
  const ComputeChoice choice = use_compute(wanted, hidden_size);
  fs::create_directories(folder);
  resume.write({{}, {{kComputeMetric, choice.name()}}});
  return choice;
}

Compute recorded_compute(const Json& metrics, const std::string& where) {
  const auto found = metrics.find(kComputeMetric);
  if (found == metrics.end() || *found == "f32") return Compute::f32;
  if (*found == "bf16") return Compute::bf16;
  throw FormatError(where, -1, fmt::format("metric '{}' is {}, not \"f32\" or \"bf16\"", kComputeMetric, found->dump().substr(0, 40)));
}

}  // namespace overproof
