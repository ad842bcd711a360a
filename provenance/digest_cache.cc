#include "provenance/digest_cache.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <limits>

#include "core/error.h"
#include "core/json_object.h"
#include "core/hash_files.h"
#include "core/progress.h"
#include "core/real_path.h"
#include "provenance/dsse.h"
#include "provenance/signed_json.h"
#include "provenance/oms.h"

namespace overproof {
namespace {

constexpr std::string_view kCacheType = "application/vnd.overproof.digest-cache+json";
constexpr int kFormatVersion = 1;
constexpr int64_t kMostCacheBytes = int64_t{256} << 20;
constexpr int64_t kLeastChunk = int64_t{64} << 10, kMostChunk = int64_t{1} << 30;
/// Times of change are as coarse as a tick of the kernel (10 ms at most), two seconds on FAT and some network disks. A file that
/// changed within this time before it was looked at may change again and keep the same time.
constexpr int64_t kSettledSeconds = 3;

/// Size and stamp of a file at one moment.
struct Seen {
  int64_t bytes = 0;
  FileStamp stamp;
  bool operator==(const Seen&) const = default;
};

Seen look_at(const fs::path& file) {
  struct stat info {};
  if (::lstat(file.c_str(), &info) != 0) throw IoError(file, "cannot read its size", errno);
  return {int64_t(info.st_size),
          {int64_t(info.st_dev), int64_t(info.st_ino), int64_t(info.st_mtim.tv_sec), int64_t(info.st_mtim.tv_nsec),
           int64_t(info.st_ctim.tv_sec), int64_t(info.st_ctim.tv_nsec)}};
}

/// One file on its way through its chain.
struct Chain {
  fs::path file;
  int64_t bytes = 0;
  std::vector<Sha256State> cached;  // states behind the first byte and up to the last, in chunks
  std::vector<Sha256State> states;  // as computed
  Digest digest;
  int64_t next_link = 0;
  int64_t broken = std::numeric_limits<int64_t>::max();  // the first link that does not hold
};

class ChainWork : public SpanWork {
 public:
  ChainWork(std::vector<Chain>& chains, int64_t chunk)
      : chains_(chains), chunk_(chunk), progress_("hash", total(chains), "bytes") {
    for (Chain& chain : chains_) chain.states.resize(size_t(chain.bytes / chunk_));
    // What must be hashed in a row begins first, the longest row before the others.
    for (size_t i = 0; i < chains_.size(); ++i) order_.push_back(i);
    std::ranges::stable_sort(order_, std::greater(),
                             [&](size_t i) { return chains_[i].bytes - int64_t(chains_[i].cached.size()) * chunk_; });
  }

  int64_t count() const override {
    int64_t links = 0;
    for (const Chain& chain : chains_) links += last_link(chain) + 1;
    return links;
  }

  std::optional<FileSpan> next() override {
    for (; at_ < order_.size(); ++at_) {
      Chain& chain = chains_[order_[at_]];
      if (chain.next_link > last_link(chain) || chain.next_link > chain.broken) continue;
      const int64_t link = chain.next_link++, begin = link * chunk_;
      lanes_.push_back({order_[at_], link});
      return FileSpan{chain.file, begin, std::min(chain.bytes, begin + chunk_),
                      link == 0 ? Sha256() : Sha256(chain.cached[size_t(link - 1)]), lanes_.size() - 1};
    }
    return std::nullopt;
  }

  bool goes_on(FileSpan& span) override {
    Chain& chain = chains_[lanes_[span.id].chain];
    const int64_t reached = span.end / chunk_;
    if (span.end % chunk_ == 0 && reached > 0) chain.states[size_t(reached - 1)] = span.hash.state();
    if (span.end >= chain.bytes) {
      chain.digest = span.hash.so_far();
      return false;
    }
    // Here the next link begins: with this very state, or the chain is broken. What is behind a break, this lane does itself.
    const bool in_row = lanes_[span.id].in_row;
    if (!in_row && reached <= int64_t(chain.cached.size()) && chain.cached[size_t(reached - 1)] == span.hash.state())
      return false;
    if (!in_row) chain.broken = std::min(chain.broken, lanes_[span.id].link);
    lanes_[span.id].in_row = true;
    const int64_t more = std::min(chain.bytes - span.end, chunk_);
    in_row_ += more;
    span.end += more;
    return true;
  }

  bool wanted(const FileSpan& span) const override { return lanes_[span.id].link <= chains_[lanes_[span.id].chain].broken; }

  void progressed(int64_t bytes) override {
    hashed_ += bytes;
    progress_.update(hashed_);
  }

  int64_t hashed() const { return hashed_; }
  int64_t in_row() const { return in_row_; }

 private:
  struct Lane {
    size_t chain = 0;
    int64_t link = 0;     // where it began
    bool in_row = false;  // continues after a break
  };

  static int64_t total(const std::vector<Chain>& chains) {
    int64_t bytes = 0;
    for (const Chain& chain : chains) bytes += chain.bytes;
    return bytes;
  }

  /// The last link that can begin at a state that is known.
  int64_t last_link(const Chain& chain) const {
    const int64_t links = std::max<int64_t>(1, (chain.bytes + chunk_ - 1) / chunk_);
    return std::min(links - 1, int64_t(chain.cached.size()));
  }

  std::vector<Chain>& chains_;
  int64_t chunk_;
  Progress progress_;
  std::vector<size_t> order_;
  size_t at_ = 0;
  std::vector<Lane> lanes_;
  int64_t hashed_ = 0, in_row_ = 0;
};

std::string hex_of(const std::vector<Sha256State>& states) {
  std::string text;
  for (const Sha256State& state : states)
    for (const uint32_t word : state.words) text += fmt::format("{:08x}", word);
  return text;
}

std::vector<Sha256State> states_of(const std::string& text, int64_t chunk, int64_t bytes, const fs::path& origin) {
  std::vector<Sha256State> states;
  if (text.size() % 64 != 0 || int64_t(text.size() / 64) > bytes / chunk)
    throw FormatError(origin, -1, "digest cache: 'states' are not one a chunk");
  for (size_t at = 0; at < text.size(); at += 64) {
    Sha256State state{{}, int64_t(at / 64 + 1) * chunk};
    for (size_t i = 0; i < 64; ++i) {
      const char c = text[at + i];
      if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
        throw FormatError(origin, -1, "digest cache: 'states' are not hexadecimal");
      state.words[i / 8] = state.words[i / 8] << 4 | uint32_t(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    states.push_back(state);
  }
  return states;
}

constexpr int64_t kAny = std::numeric_limits<int64_t>::max();

}  // namespace

CachedScan scan_with_cache(const fs::path& folder, const DigestCache& cache, bool trust_stamps) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  CachedScan scan;
  scan.cache.chunk_bytes = cache.chunk_bytes;
  scan.record.files = list_artifact(folder);
  std::vector<Seen> seen;
  std::vector<Chain> chains;
  std::vector<size_t> read;  // the file of each of `chains`
  for (size_t i = 0; i < scan.record.files.size(); ++i) {
    FileRecord& file = scan.record.files[i];
    seen.push_back(look_at(folder / file.name));
    file.bytes = seen.back().bytes;
    scan.bytes += file.bytes;
    const auto found = cache.files.find(file.name);
    if (trust_stamps && found != cache.files.end() && found->second.bytes == file.bytes &&
        found->second.stamp == seen.back().stamp) {
      file.digest = found->second.digest;
      scan.cache.files[file.name] = found->second;
      ++scan.files_not_read;
      continue;
    }
    Chain chain{folder / file.name, file.bytes};
    if (found != cache.files.end()) {
      chain.cached = found->second.states;
      chain.cached.resize(std::min(chain.cached.size(), size_t(file.bytes / cache.chunk_bytes)));
    }
    chains.push_back(std::move(chain));
    read.push_back(i);
  }
  ChainWork work(chains, cache.chunk_bytes);
  hash_spans(work);
  scan.bytes_hashed = work.hashed();
  scan.bytes_in_row = work.in_row();
  for (size_t c = 0; c < chains.size(); ++c) {
    FileRecord& file = scan.record.files[read[c]];
    const Seen& before = seen[read[c]];
    if (look_at(chains[c].file) != before)
      throw IoError(chains[c].file, "modified while being read; stop other writers and run the command again", 0);
    file.digest = chains[c].digest;
    CachedFile cached{file.bytes, file.digest, std::move(chains[c].states), std::nullopt};
    if (std::max(before.stamp.changed_s, before.stamp.modified_s) + kSettledSeconds < int64_t(now.tv_sec))
      cached.stamp = before.stamp;
    scan.cache.files[file.name] = std::move(cached);
  }
  scan.record.root = oms_root(scan.record.files);
  return scan;
}

void write_digest_cache(const fs::path& file, const DigestCache& cache, const Key& key) {
  Json files = Json::array();
  for (const auto& [name, cached] : cache.files) {
    Json entry = {{"name", name}, {"bytes", cached.bytes}, {"sha256", cached.digest.hex()}, {"states", hex_of(cached.states)}};
    if (const auto& s = cached.stamp)
      entry["stamp"] = {{"device", s->device},           {"inode", s->inode},         {"modified_s", s->modified_s},
                        {"modified_ns", s->modified_ns}, {"changed_s", s->changed_s}, {"changed_ns", s->changed_ns}};
    files.push_back(std::move(entry));
  }
  const Json json = {{"format_version", kFormatVersion}, {"chunk_bytes", cache.chunk_bytes}, {"files", files}};
  const Envelope envelope = sign_envelope(kCacheType, json_dump(json), key, key.public_key().hint());
  write_file_atomically(file, json_dump(envelope.to_json()) + "\n");
}

DigestCache parse_digest_cache(std::string_view text, const fs::path& origin) {
  const Json json = parse_json(text, origin);
  const JsonObject table(json, origin, "digest cache");
  table.expect_only({"format_version", "chunk_bytes", "files"});
  if (table.integer("format_version", 0, kAny) != kFormatVersion)
    table.fail("format_version", "is of another version; remove the cache, and it is made again");
  DigestCache cache;
  cache.chunk_bytes = table.integer("chunk_bytes", kLeastChunk, kMostChunk);
  if (cache.chunk_bytes % Sha256State::kBlock != 0) table.fail("chunk_bytes", "is not a multiple of the block size");
  for (const JsonObject& entry : table.objects("files")) {
    entry.expect_only({"name", "bytes", "sha256", "states", "stamp"});
    CachedFile file;
    file.bytes = entry.integer("bytes", 0, kAny);
    file.digest = entry.digest("sha256");
    file.states = states_of(entry.text("states"), cache.chunk_bytes, file.bytes, origin);
    if (const auto stamp = entry.find_object("stamp")) {
      stamp->expect_only({"device", "inode", "modified_s", "modified_ns", "changed_s", "changed_ns"});
      const auto number = [&](const char* name) { return stamp->integer(name, std::numeric_limits<int64_t>::min(), kAny); };
      file.stamp = FileStamp{number("device"),      number("inode"),     number("modified_s"),
                             number("modified_ns"), number("changed_s"), number("changed_ns")};
    }
    if (!cache.files.emplace(entry.text("name"), std::move(file)).second) entry.fail("name", "is listed twice");
  }
  return cache;
}

bool may_be_digest_cache(const fs::path& file) {
  constexpr std::string_view kBegin = R"({"payload":)", kTypeKey = R"("payloadType")";
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return false;
  if (!begins_with(file, kBegin.substr(0, size_t(fs::file_size(file, error))))) return false;
  const std::string text = read_file(file, kMostCacheBytes);  // the type of the payload comes last
  return text.find(kCacheType) != std::string::npos || text.find(kTypeKey) == std::string::npos;
}

StoredCache read_digest_cache(const fs::path& file, const PublicKey& key) {
  const Envelope envelope = Envelope::from_json(parse_json(read_file(file, kMostCacheBytes), file), file);
  if (envelope.payload_type != kCacheType) throw FormatError(file, -1, "holds no digest cache");
  return {parse_digest_cache(envelope.payload, file), envelope.key_id == key.hint() && envelope.verify(key)};
}

}  // namespace overproof
