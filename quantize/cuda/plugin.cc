// The table of functions for the program. No exception leaves this file: only the allocation of a session can throw.

#include <cstdio>
#include <cstring>
#include <new>

#include "quantize/cuda/session.h"

namespace overproof::gpu {
namespace {

thread_local char error_text[512] = "";

Session& at(void* session) { return *static_cast<Session*>(session); }

const char* last_error() { return error_text; }

int32_t device_count(int32_t* count) {
  *count = 0;
  int found = 0, driver = 0;
  // Without a driver the runtime reports one that is too old.
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return fail("look for devices", "there is no driver");
  if (const int32_t bad = status(cudaGetDeviceCount(&found), "look for devices")) return bad;
  *count = found;
  return 0;
}

int32_t device_info(int32_t device, GpuDeviceInfo* info) {
  cudaDeviceProp properties{};
  if (const int32_t bad = status(cudaGetDeviceProperties(&properties, device), "ask the device")) return bad;
  std::snprintf(info->name, sizeof(info->name), "%s", properties.name);
  info->capability = properties.major * 10 + properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->memory_bytes = int64_t(properties.totalGlobalMem);
  return 0;
}

void close_session(void* handle) {
  if (handle == nullptr) return;
  Session& session = at(handle);
  cudaSetDevice(session.device);
  if (session.stream != nullptr) cudaStreamSynchronize(session.stream);
  if (session.blas != nullptr) cublasLtDestroy(session.blas);
  cudaFree(session.workspace);
  if (session.stream != nullptr) cudaStreamDestroy(session.stream);
  delete &session;
}

int32_t open_session(int32_t device, void** handle) {
  *handle = nullptr;
  Session* session = new (std::nothrow) Session;
  if (session == nullptr) return fail("open the device", "out of memory");
  session->device = device;
  int32_t bad = status(cudaSetDevice(device), "choose the device");
  if (bad == 0) bad = status(cudaStreamCreateWithFlags(&session->stream, cudaStreamNonBlocking), "make a stream");
  if (bad == 0) {
    const cublasStatus_t blas = cublasLtCreate(&session->blas);
    if (blas != CUBLAS_STATUS_SUCCESS) bad = fail("start cuBLASLt", cublasLtGetStatusString(blas));
  }
  if (bad != 0) close_session(session);
  else *handle = session;
  return bad;
}

int32_t allocate(void* session, int64_t bytes, void** memory) {
  *memory = nullptr;
  int32_t bad = status(cudaSetDevice(at(session).device), "choose the device");
  if (bad == 0) bad = status(cudaMalloc(memory, size_t(bytes)), "allocate");
  if (bad == 0) bad = status(cudaMemsetAsync(*memory, 0, size_t(bytes), at(session).stream), "clear memory");
  if (bad != 0 && *memory != nullptr) {
    cudaFree(*memory);
    *memory = nullptr;
  }
  return bad;
}

void release(void* session, void* memory) {
  cudaSetDevice(at(session).device);
  cudaStreamSynchronize(at(session).stream);  // a kernel may still use the memory; its failure is reported by the next copy
  cudaFree(memory);
}

int32_t copy(Session& session, void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
             cudaMemcpyKind kind, const char* what) {
  if (row_bytes == 0 || rows == 0) return 0;
  int32_t bad = status(cudaSetDevice(session.device), what);
  if (bad == 0) {
    // One copy where rows follow each other: a 2D copy has limits on its pitch.
    const bool dense = rows == 1 || (to_pitch == row_bytes && from_pitch == row_bytes);
    bad = status(dense ? cudaMemcpyAsync(to, from, size_t(row_bytes) * size_t(rows), kind, session.stream)
                       : cudaMemcpy2DAsync(to, size_t(to_pitch), from, size_t(from_pitch), size_t(row_bytes), size_t(rows), kind,
                                           session.stream),
                 what);
  }
  return bad != 0 ? bad : status(cudaStreamSynchronize(session.stream), what);
}

int32_t copy_in(void* session, void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes,
                int64_t rows) {
  return copy(at(session), to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyHostToDevice, "copy to the device");
}
int32_t copy_out(void* session, void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes,
                 int64_t rows) {
  return copy(at(session), to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDeviceToHost, "copy from the device");
}

int32_t quantize(void* session, const QuantizeJob* job) { return quantize_on(at(session), *job); }
int32_t errors(void* session, const ErrorJob* job) { return errors_on(at(session), *job); }
int32_t dequantize(void* session, const DequantizeJob* job) { return dequantize_on(at(session), *job); }
int32_t scale(void* session, const ScaleJob* job) { return scale_on(at(session), *job); }
int32_t check_matmul(const MatmulJob* job) { return describe_matmul(*job); }
int32_t matmul(void* session, const MatmulJob* job) { return matmul_on(at(session), *job); }

constexpr GpuApi kApi{kGpuApiVersion, sizeof(GpuApi), last_error, device_count, device_info, open_session,
                      close_session,  allocate,       release,    copy_in,      copy_out,    quantize,
                      errors,         dequantize,     scale,      check_matmul, matmul};

}  // namespace

int32_t fail(const char* what, const char* text) {
  std::snprintf(error_text, sizeof(error_text), "%s: %s", what, text);
  return 1;
}

}  // namespace overproof::gpu

extern "C" __attribute__((visibility("default"))) const overproof::GpuApi* overproof_gpu_api(uint32_t version) {
  return version == overproof::kGpuApiVersion ? &overproof::gpu::kApi : nullptr;
}
