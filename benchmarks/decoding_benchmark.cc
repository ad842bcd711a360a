// Speed of generation, one sequence and several at a time:
//
//   bench_decoding MODEL [--f32] [--prompt 32] [--tokens 64] [--batch 16] [--threads N] [--instructions avx512|avx2|plain]
//
// The most probable token each time. --f32: the same weights as f32 in memory. Seconds are wall time and CPU time of the process; both
// leave out the prompt, which is measured alone. Checks that the first sequence of the batch has the tokens that it has alone, and prints
// one JSON object. benchmarks/decoding.py compares it with llama.cpp.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "benchmarks/timing.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "model/generator.h"
#include "model/ops/row_products.h"

using namespace overproof;

namespace {

/// A checkpoint's values as f32, without the form in which they are stored.
class Widened : public TensorSource {
 public:
  explicit Widened(std::unique_ptr<TensorSource> source) : source_(std::move(source)) {
    for (TensorInfo info : source_->tensors()) {
      info.dtype = DType::f32;
      table_.add(std::move(info));
    }
  }
  const std::vector<TensorInfo>& tensors() const override { return table_.list(); }
  const TensorInfo* find(std::string_view name) const override { return table_.find(name); }
  void read_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> out) const override {
    source_->read_f32(name, first_row, rows, out);
  }

 private:
  std::unique_ptr<TensorSource> source_;
  TensorTable table_;
};

struct Seconds {
  double wall = 0, cpu = 0;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

template <class Body>
Seconds timed(const Body& body) {
  const double before = cpu_seconds();
  const double wall = seconds_of(body);
  return {wall, cpu_seconds() - before};
}

struct Written {
  Seconds prompts, tokens;
  std::vector<int64_t> first;  ///< ids of the first sequence
};

Written write(const Generator& model, int64_t sequences, int64_t prompt, int64_t tokens) {
  std::vector<KvCache> caches(static_cast<size_t>(sequences));
  std::vector<KvCache*> at;
  std::vector<at::Tensor> last;
  Written written;
  written.prompts = timed([&] {
    for (int64_t i = 0; i < sequences; ++i) {
      const at::Tensor ids = (at::arange(prompt) * 37 + 11 * i + 100).remainder(model.config().vocab_size).unsqueeze(0).to(at::kLong);
      caches[size_t(i)].expected = prompt + tokens;
      last.push_back(model.hidden_cached(ids, caches[size_t(i)]).narrow(0, prompt - 1, 1));
      at.push_back(&caches[size_t(i)]);
    }
  });
  at::Tensor hidden = at::cat(last);
  written.tokens = timed([&] {
    for (int64_t t = 0; t < tokens; ++t) {
      const at::Tensor ids = model.next_logits(hidden).argmax(-1);
      written.first.push_back(ids[0].item<int64_t>());
      hidden = model.hidden_next(ids, at);
    }
  });
  return written;
}

}  // namespace

int main(int argc, char** argv) {
  std::string path;
  int64_t prompt = 32, tokens = 64, batch = 16, threads = 0;
  bool f32 = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto number = [&] { return std::atoll(argv[++i]); };
    if (word == "--f32") f32 = true;
    else if (word == "--prompt" && i + 1 < argc) prompt = number();
    else if (word == "--tokens" && i + 1 < argc) tokens = number();
    else if (word == "--batch" && i + 1 < argc) batch = number();
    else if (word == "--threads" && i + 1 < argc) threads = number();
    else if (word == "--instructions" && i + 1 < argc) ops::cpu::use_row_instructions(argv[++i]);
    else path = word;
  }
  if (path.empty()) {
    fmt::print(stderr, "bench_decoding MODEL [--f32] [--prompt N] [--tokens N] [--batch N] [--threads N] [--instructions SET]\n");
    return 2;
  }
  if (threads > 0) set_thread_count(threads);
  prepare_torch();
  at::NoGradGuard no_grad;
  Checkpoint checkpoint = open_checkpoint(path);
  if (f32) checkpoint.tensors = std::make_unique<Widened>(std::move(checkpoint.tensors));
  const Generator model(checkpoint);
  write(model, 1, prompt, 2);  // starts threads, and touches the memory
  const Written one = write(model, 1, prompt, tokens), many = write(model, batch, prompt, tokens);
  if (one.first != many.first) throw std::runtime_error("the first sequence of the batch has other tokens than alone");
  const auto rates = [&](const Seconds& s, int64_t count) {
    return Json{{"per_second", double(count) / s.wall}, {"cpu_ms", 1e3 * s.cpu / double(count)}};
  };
  fmt::print("{}\n", Json{{"instructions", std::string(ops::cpu::row_instructions())},
                          {"threads", thread_count()},
                          {"weights", model.forms()},
                          {"bytes_per_token", model.bytes_per_token()},
                          {"prompt", rates(one.prompts, prompt)},
                          {"one", rates(one.tokens, tokens)},
                          {"batch", rates(many.tokens, tokens * batch)},
                          {"sequences", batch},
                          {"ids", one.first}}
                         .dump());
}
