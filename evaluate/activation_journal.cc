#include "evaluate/activation_journal.h"

#include <ATen/ATen.h>

#include <cstring>

#include "core/error.h"
#include "core/json.h"

namespace overproof {
namespace {

constexpr char kState[] = "activations.state.safetensors", kNext[] = "activations.next.safetensors";
constexpr int kFormatVersion = 1;

}  // namespace

LayerState ActivationJournal::read_state(std::array<int64_t, 2> stream_shape, int64_t layers) {
  const fs::path path = scratch_ / kState;
  const SafetensorsFile file(path);
  const auto text = file.metadata().find("state");
  if (text == file.metadata().end()) throw FormatError(path, -1, "has no state");
  const Json json = parse_json(text->second, path);
  const std::span<const float> values = file.values<float>("stream");
  const std::vector<int64_t> shape(stream_shape.begin(), stream_shape.end());
  LayerState state{json.at("layers").get<int64_t>(), {}, {}};
  if (json.at("format_version") != kFormatVersion || json.at("run") != run_ || file.info("stream").shape != shape ||
      file.info("stream").dtype != DType::f32 || state.layers_done < 1 || state.layers_done > layers)
    throw FormatError(path, -1, "was left by another run");
  const std::string_view bytes(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  if (sha256(bytes).hex() != json.at("stream_sha256")) throw FormatError(path, -1, "is no longer what an earlier run left");
  state.stream = at::empty(shape, at::kFloat);
  std::memcpy(state.stream.mutable_data_ptr<float>(), bytes.data(), bytes.size());
  const Json& experts = json.at("experts");
  state.experts = {experts.at(0).get<int64_t>(), experts.at(1).get<int64_t>(), experts.at(2).get<int64_t>(),
                   experts.at(3).get<int64_t>()};
  spill_.emplace(scratch_, &json.at("spill"));
  return state;
}

std::optional<LayerState> ActivationJournal::read(std::array<int64_t, 2> stream_shape, int64_t layers) {
  std::error_code error;
  if (fs::exists(scratch_ / kState, error)) {
    try {
      return read_state(stream_shape, layers);
    } catch (const Json::exception&) {
    } catch (const FormatError&) {
    } catch (const UsageError&) {  // a digest that is none
    }
  }
  fs::remove(scratch_ / kState, error);  // before what it speaks of
  spill_.emplace(scratch_);
  return std::nullopt;
}

void ActivationJournal::write(const LayerState& state) {
  const at::Tensor stream = state.stream.contiguous();
  const std::string_view bytes(static_cast<const char*>(stream.const_data_ptr()), size_t(stream.nbytes()));
  const ExpertCounts& e = state.experts;
  const Json json = {{"format_version", kFormatVersion},     {"run", run_},
                     {"layers", state.layers_done},          {"experts", {e.total, e.topped_up, e.below, e.forced_tokens}},
                     {"stream_sha256", sha256(bytes).hex()}, {"spill", spill_->mark()}};
  OutputFolder folder(scratch_);
  SafetensorsWriter writer(folder, kNext, {{"stream", DType::f32, stream.sizes().vec()}}, {{"state", json.dump()}});
  writer.append(bytes.data(), bytes.size());
  writer.close();
  std::error_code error;
  fs::rename(scratch_ / kNext, scratch_ / kState, error);
  if (error) throw IoError(scratch_ / kState, "cannot replace the state of the layers", error.value());
  fsync_folder(scratch_);
}

void ActivationJournal::remove() {
  std::error_code ignored;
  fs::remove(scratch_ / kState, ignored);
  spill_.reset();
  fs::remove(scratch_ / kSpill, ignored);
}

}  // namespace overproof
