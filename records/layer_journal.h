#pragma once
// What a stage that takes all tokens through one layer after another has done so far, in its scratch folder: a killed run resumes
// after its last whole layer.
//
//   <spill>                what the finished layers left, one after another; its form is the owner's
//   stream-<layers>.f32    the residual stream after <layers> layers, F32
//   resume.json            records/resume.h, naming both; progress: {"layers":n, ...}, the other members are the owner's

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "core/file.h"
#include "records/resume.h"

namespace overproof {

class LayerJournal {
 public:
  struct Shape {
    int64_t layers;  ///< of the model
    std::optional<int64_t> stream_elements;  ///< nothing: too many to count, so nothing is resumed
  };
  /// How many bytes the spill has when `layers` layers have the owner's members of `progress`; nothing when they are not sound.
  using Expect = std::function<std::optional<int64_t>(int64_t layers, const Json& progress)>;

  /// Resumes from what a killed run of the same stage key left in `scratch`; from nothing when anything of it does not hold.
  /// Throws IoError.
  LayerJournal(const fs::path& scratch, const Digest& stage_key, std::string spill, const Shape& shape, const Expect& expect);

  int64_t layers_done() const { return layers_done_; }
  /// The object of the last checkpoint; empty when no layer is done.
  const Json& progress() const { return progress_; }
  /// The stream after layers_done() > 0 layers. Throws FormatError when the file changed since it was digested.
  void read_stream(std::span<float> out) const;

  /// Appends to the spill.
  void append(const void* data, size_t bytes) { spill_->write(data, bytes); }
  template <class T>
  void append(std::span<const T> values) {
    append(values.data(), values.size_bytes());
  }
  /// All that was appended belongs to whole layers: puts it on the disk, together with the stream after them. Throws IoError.
  void checkpoint(int64_t layers_done, Json progress, std::span<const float> stream);

  /// The whole spill, when nothing will be appended any more. Throws FormatError when it has fewer than `bytes` bytes.
  MappedFile spilled(int64_t bytes);
  /// Removes the scratch files.
  void clear();

 private:
  std::optional<int64_t> sound(const ResumePoint& point, const Expect& expect) const;

  fs::path scratch_;
  std::string spill_name_;
  Shape shape_;
  Resume resume_;
  OutputFolder folder_;
  std::optional<OutputFile> spill_;
  int64_t layers_done_ = 0;
  Json progress_ = Json::object();
  std::optional<FileRecord> stream_;
};

/// A count in JSON: an integer in [0, 2^63). Nothing for anything else.
std::optional<int64_t> count_of(const Json& json);

}  // namespace overproof
