#include "student/ffn.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>

#include "core/error.h"
#include "data/tokenizer_files.h"
#include "formats/model_check.h"
#include "model/host_values.h"

namespace overproof {

at::Tensor neuron_activations(const at::Tensor& gate_up, const at::Tensor& input) {
  const at::Tensor both = at::matmul(input, gate_up.t());
  const int64_t ff = gate_up.size(0) / 2;
  return at::silu(both.narrow(1, 0, ff)).mul_(both.narrow(1, ff, ff));
}

at::Tensor neuron_contributions(at::Tensor activations, const at::Tensor& down) {
  return activations.abs_().mul_(down.norm(2, {0}));
}

double sum_of_squares(const at::Tensor& t) {
  // Row by row: a sum of the whole is cut by the number of threads.
  const at::Tensor rows = t.reshape({-1, t.size(-1)}).square().sum(1, false, at::kDouble);
  const std::span<const double> sums = host_values<double>(rows);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

namespace {

Checkpoint open_dense(const fs::path& path) {
  Checkpoint checkpoint = open_checkpoint(path);
  check_model(checkpoint);
  refuse_damaged_tokenizer(checkpoint.path);
  if (ModelConfig::from_json(*checkpoint.config, checkpoint.path / "config.json").is_moe())
    throw MismatchError(
        fmt::format("{}: is a mixture of experts; this stage needs a teacher with dense FFNs", path.filename().string()));
  return checkpoint;
}

}  // namespace

Decoder open_dense_teacher(const fs::path& path) { return Decoder(open_dense(path)); }

LayerStream open_dense_stream(const fs::path& path) { return LayerStream(open_dense(path)); }

}  // namespace overproof
