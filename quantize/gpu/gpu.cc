#include "quantize/gpu/gpu.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <utility>

#include "core/error.h"
#include "quantize/gpu/gpu_dispatch.h"

namespace overproof {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> plugin_places() {
  if (const char* named = std::getenv("OVERPROOF_GPU_PLUGIN"); named != nullptr && *named != '\0') return {fs::absolute(named)};
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  const char* name = "liboverproof_cuda.so";
  return {program / name, program / ".." / "lib" / "overproof" / name};
}

/// f32 scales in the order of `order`, with zeros in the gaps. `order` may have more rows and columns: padding of existing tiles,
/// or rows of zeros, whose scale does not matter.
std::vector<float> reordered(const CodeMatrix& m, const ScaleTiles& order, int64_t count) {
  std::vector<float> scales(size_t(count), 0.0f);
  for (int64_t i = 0; i < m.tiles.down(); ++i)
    for (int64_t j = 0; j < m.tiles.across(); ++j)
      scales.at(size_t(order.scale_index(i, j))) = m.scales[m.tiles.scale_index(i, j)];
  return scales;
}

int64_t scale_floats(const ScaleTiles& t) { return t.scale_index(t.down() - 1, t.across() - 1) + 1; }

void require_fits(int64_t rows, int64_t columns, std::string_view what) {
  if (!gpu::fits_device(rows, columns))
    throw MismatchError(fmt::format("a matrix of [{}, {}] is too large for one {}", rows, columns, what));
}

}  // namespace

GpuPlugin open_gpu_plugin() {
  GpuPlugin plugin;
  std::string tried;
  for (const fs::path& place : plugin_places()) {
    if (plugin.file.empty()) plugin.file = place;
    std::error_code ignored;
    if (!fs::exists(place, ignored)) {
      tried += (tried.empty() ? "" : " and ") + place.lexically_normal().string();
      continue;
    }
    plugin.file = place;
    void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      plugin.reason = fmt::format("the GPU plugin cannot be loaded: {}", dlerror());
      return plugin;
    }
    const auto function = reinterpret_cast<GpuApiFunction>(dlsym(library, kGpuApiSymbol));
    const GpuApi* api = function == nullptr ? nullptr : function(kGpuApiVersion);
    if (api == nullptr || api->version != kGpuApiVersion || api->bytes != sizeof(GpuApi)) {
      plugin.reason =
          fmt::format("{} is not a GPU plugin of this version of overproof (interface {})", place.string(), kGpuApiVersion);
      return plugin;
    }
    plugin.api = api;
    return plugin;
  }
  plugin.reason = fmt::format("no GPU plugin: {} does not exist; it is built where the CUDA toolkit is installed", tried);
  return plugin;
}

std::vector<GpuDeviceInfo> gpu_devices(const GpuApi& api, std::string& reason) {
  int32_t count = 0;
  std::vector<GpuDeviceInfo> devices;
  if (api.device_count(&count) != 0) {
    reason = fmt::format("no CUDA driver or device: {}", api.last_error());
    return devices;
  }
  if (count == 0) reason = "no CUDA device";
  for (int32_t i = 0; i < count; ++i) {
    GpuDeviceInfo info{};
    if (api.device_info(i, &info) != 0) {
      reason = fmt::format("cannot query device {}: {}", i, api.last_error());
      break;
    }
    devices.push_back(info);
  }
  return devices;
}

const GpuApi& require_gpu(const GpuPlugin& plugin) {
  std::string reason = plugin.reason;
  if (plugin.api != nullptr && !gpu_devices(*plugin.api, reason).empty()) return *plugin.api;
  throw UsageError(fmt::format("{}; use --device cpu", reason));
}

/// Device memory, released with its owner.
class GpuSession::Memory {
 public:
  Memory(GpuSession& owner, int64_t bytes) : owner_(&owner) {
    owner.check(owner.api_.allocate(owner.session_, bytes < 1 ? 1 : bytes, &memory_), "allocate memory");
  }
  ~Memory() {
    if (memory_ != nullptr) owner_->api_.release(owner_->session_, memory_);
  }
  Memory(Memory&& other) noexcept : owner_(other.owner_), memory_(std::exchange(other.memory_, nullptr)) {}
  Memory& operator=(Memory&&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  GpuSession* owner_;
  void* memory_ = nullptr;
};

GpuSession::GpuSession(const GpuApi& api, int32_t device) : api_(api) {
  check(api_.device_info(device, &info_), "find the device");
  check(api_.open(device, &session_), "open the device");
}

GpuSession::~GpuSession() { api_.close(session_); }

void GpuSession::check(int32_t status, const char* action) const {
  if (status != 0)
    throw IoError(fs::path(info_.name[0] == '\0' ? "GPU" : info_.name), fmt::format("cannot {}: {}", action, api_.last_error()),
                  0);
}

GpuSession::Memory GpuSession::upload(const void* host, int64_t row_bytes, int64_t rows, int64_t pitch, int64_t padded_rows) {
  Memory memory(*this, pitch * padded_rows);
  check(api_.copy_in(session_, memory.as<void>(), pitch, host, row_bytes, row_bytes, rows), "copy to the device");
  return memory;
}

void GpuSession::quantize(const QuantizeJob& host, TileError* errors) {
  const std::scoped_lock turn(turn_);
  const ScaleTiles& t = host.tiles;
  require_fits(t.rows, t.columns, "GPU call; pass pieces of its rows");
  const int64_t element = element_bytes(host.input);
  // Device rows begin at multiples of 16 bytes, so that kernels can load whole vectors for any width.
  QuantizeJob job = host;
  job.x_stride = job.code_stride = ceil_div(t.columns, 16) * 16;
  Memory x(*this, job.x_stride * element * t.rows), codes(*this, job.code_stride * t.rows);
  check(
      api_.copy_in(session_, x.as<void>(), job.x_stride * element, host.x, host.x_stride * element, t.columns * element, t.rows),
      "copy to the device");
  const int64_t floats = scale_floats(t);
  const Memory scales = upload(host.scales, floats * 4, 1, floats * 4, 1);
  const Memory bad_row = upload(host.bad_row, 8, 1, 8, 1);
  const Memory magnitudes(*this, gpu::needs_magnitudes(t) ? t.count() * 4 : 0);
  job.x = x.as<void>();
  job.codes = codes.as<uint8_t>();
  job.scales = scales.as<float>();
  job.bad_row = bad_row.as<uint64_t>();
  job.magnitudes = magnitudes.as<uint32_t>();
  check(api_.quantize(session_, &job), "quantize");
  const auto fetch = [&](void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t bytes, int64_t rows) {
    check(api_.copy_out(session_, to, to_pitch, from, from_pitch, bytes, rows), "copy from the device");
  };
  fetch(host.codes, host.code_stride, job.codes, job.code_stride, t.columns, t.rows);
  fetch(host.scales, floats * 4, job.scales, floats * 4, floats * 4, 1);
  fetch(host.bad_row, 8, job.bad_row, 8, 8, 1);
  if (errors == nullptr) return;
  ErrorJob error_job{job, nullptr, nullptr};
  const int64_t parts = t.rows * t.across(), bytes = parts * int64_t(sizeof(TileError));
  const Memory blocks(*this, bytes * error_job.error_blocks()), sums(*this, bytes);
  error_job.blocks = blocks.as<TileError>();
  error_job.errors = sums.as<TileError>();
  check(api_.errors(session_, &error_job), "sum errors");
  fetch(errors, bytes, error_job.errors, bytes, bytes, 1);
}

void GpuSession::dequantize(const DequantizeJob& host) {
  const std::scoped_lock turn(turn_);
  const ScaleTiles& t = host.tiles;
  require_fits(t.rows, t.columns, "GPU call; pass pieces of its rows");
  const int64_t element = element_bytes(host.output);
  DequantizeJob job = host;
  job.code_stride = job.out_stride = ceil_div(t.columns, 16) * 16;
  const Memory codes(*this, job.code_stride * t.rows), out(*this, job.out_stride * element * t.rows);
  check(api_.copy_in(session_, codes.as<void>(), job.code_stride, host.codes, host.code_stride, t.columns, t.rows),
        "copy to the device");
  const int64_t floats = host.scales == nullptr ? 0 : scale_floats(t);
  const Memory scales = upload(host.scales, floats * 4, floats == 0 ? 0 : 1, floats * 4, 1);
  job.codes = codes.as<uint8_t>();
  job.scales = host.scales == nullptr ? nullptr : scales.as<float>();
  job.out = out.as<void>();
  check(api_.dequantize(session_, &job), "dequantize");
  check(api_.copy_out(session_, host.out, host.out_stride * element, job.out, job.out_stride * element, t.columns * element,
                      t.rows),
        "copy from the device");
}

GpuSession::Memory GpuSession::upload_scales(const CodeMatrix& m, const ScaleTiles& order, int64_t count) {
  const std::vector<float> scales = reordered(m, order, count);
  return upload(scales.data(), count * 4, 1, count * 4, 1);
}

/// The codes as the plan needs them: padded with zeros, and converted to bf16 where its tensor cores need that.
GpuSession::Memory GpuSession::operand(const CodeMatrix& m, const GemmPlan& plan, int64_t padded_rows) {
  Memory codes = upload(m.codes, m.tiles.columns, m.tiles.rows, plan.columns, padded_rows);
  if (plan.operand != ElementType::bf16) return codes;
  Memory wide(*this, plan.columns * padded_rows * 2);
  DequantizeJob job{m.tiles,      m.type,  ElementType::bf16, codes.as<uint8_t>(),
                    plan.columns, nullptr, wide.as<void>(),   plan.columns};
  job.tiles = tiles_of(m.tiles.rows, m.tiles.columns, m.tiles.tile_rows, m.tiles.tile_columns);
  const Memory scales = upload_scales(m, job.tiles, job.tiles.count());
  if (plan.path == GemmPath::dequantize) job.scales = scales.as<float>();
  check(api_.dequantize(session_, &job), "convert codes to bf16");
  return wide;
}

GemmPlan GpuSession::gemm(const CodeMatrix& x, const CodeMatrix& w, ElementType out_type, void* out) {
  const std::scoped_lock turn(turn_);
  const int64_t tokens = x.tiles.rows, outputs = w.tiles.rows;
  const GemmScaling scaling = gemm_scaling(x, w);
  const GemmPlan plan = choose_gemm_plan({info_.capability, x.type, scaling, tokens, outputs, x.tiles.columns, out_type});
  for (const auto& [rows, columns] :
       {std::pair{plan.tokens, plan.columns}, {plan.outputs, plan.columns}, {plan.tokens, plan.outputs}})
    require_fits(rows, columns, "product on a GPU");
  const Memory a = operand(w, plan, plan.outputs), b = operand(x, plan, plan.tokens);
  const Memory a_scales = upload_scales(w, plan.weight_scales, plan.weight_scale_count);
  const Memory b_scales = upload_scales(x, plan.activation_scales, plan.activation_scale_count);
  Memory d(*this, plan.tokens * plan.job.ldd * element_bytes(plan.job.d));
  MatmulJob job = plan.job;
  job.a = a.as<void>();
  job.b = b.as<void>();
  if (job.a_scale != MatmulScale::none) job.a_scales = a_scales.as<float>();
  if (job.b_scale != MatmulScale::none) job.b_scales = b_scales.as<float>();
  job.d_out = d.as<void>();
  check(api_.matmul(session_, &job), "multiply");
  const int64_t element = element_bytes(out_type);
  const auto fetch = [&](const Memory& from, int64_t stride) {
    check(api_.copy_out(session_, out, outputs * element, from.as<void>(), stride * element, outputs * element, tokens),
          "copy from the device");
  };
  if (!plan.scale_after) {
    fetch(d, plan.job.ldd);
    return plan;
  }
  const int64_t step = scaling == GemmScaling::token_channel ? 1 : 0;
  const Memory scaled(*this, tokens * plan.job.ldd * element);
  const ScaleJob scale{tokens,       outputs,      plan.job.d,           out_type,
                       d.as<void>(), plan.job.ldd, b_scales.as<float>(), a_scales.as<float>(),
                       step,         step,         scaled.as<void>(),    plan.job.ldd};
  check(api_.scale(session_, &scale), "scale the product");
  fetch(scaled, plan.job.ldd);
  return plan;
}

}  // namespace overproof
