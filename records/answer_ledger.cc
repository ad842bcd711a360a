#include "records/answer_ledger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>

#include "core/error.h"
#include "records/row_encoding.h"

namespace overproof {
namespace {

constexpr std::string_view kMagic = "OVPANSW1";
constexpr int64_t kHeader = 8 + 32, kBefore = 1 + 32 + 4, kAfter = 32, kMostPayload = int64_t{1} << 28;
constexpr int64_t kMostTokens = UINT32_MAX;
enum Kind : uint8_t { kSent = 1, kAnswered = 2, kRefused = 3, kText = 4 };

void put_u32(std::string& text, int64_t value) {
  const auto v = uint32_t(std::clamp<int64_t>(value, 0, kMostTokens));
  for (int i = 0; i < 4; ++i) text += char(v >> (8 * i));
}
int64_t u32_at(std::span<const uint8_t> bytes, size_t at) {
  return int64_t(bytes[at]) | int64_t(bytes[at + 1]) << 8 | int64_t(bytes[at + 2]) << 16 | int64_t(bytes[at + 3]) << 24;
}
Digest digest_at(std::span<const uint8_t> bytes, size_t at) {
  Digest digest;
  std::copy_n(bytes.begin() + ptrdiff_t(at), digest.bytes.size(), digest.bytes.begin());
  return digest;
}
std::string_view text_of(const Digest& digest) { return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()}; }

std::string record_of(Kind kind, const Digest& request, std::string_view payload) {
  OVERPROOF_CHECK(int64_t(payload.size()) <= kMostPayload);
  std::string record(1, char(kind));
  record += text_of(request);
  put_u32(record, int64_t(payload.size()));
  record += payload;
  return record += text_of(sha256(record));
}

int64_t add_tokens(int64_t a, int64_t b) { return std::min(a, INT64_MAX - b) + b; }

}  // namespace

int64_t LedgerState::maybe_paid() const {
  int64_t sum = 0;
  for (const auto& [request, tokens_of] : open) sum = add_tokens(sum, tokens_of);
  return sum;
}

LedgerState read_ledger(std::span<const uint8_t> bytes, const Digest& teacher, const fs::path& file) {
  LedgerState state;
  const auto fail = [&](int64_t at, std::string_view cause) { throw FormatError(file, at, cause); };
  if (int64_t(bytes.size()) < kHeader) return state;  // killed while the header was written
  if (std::string_view(reinterpret_cast<const char*>(bytes.data()), kMagic.size()) != kMagic) fail(0, "is no ledger of answers");
  if (digest_at(bytes, kMagic.size()) != teacher) fail(8, "holds answers of another teacher; remove it to begin anew");
  int64_t at = kHeader;
  const auto size = int64_t(bytes.size());
  while (size - at >= kBefore + kAfter) {
    const auto record = bytes.subspan(size_t(at));
    if (record[0] == 0 && std::ranges::all_of(record, [](uint8_t b) { return b == 0; })) break;  // a length without its bytes, after a power cut
    const int64_t payload = u32_at(record, 33), end = kBefore + payload;
    if (payload > kMostPayload) fail(at, "a record is too long: the file is damaged; restore it from a copy, or remove it and pay for its answers again");
    if (size - at < end + kAfter) break;  // torn
    if (sha256({reinterpret_cast<const char*>(record.data()), size_t(end)}) != digest_at(record, size_t(end))) {
      if (size - at == end + kAfter) break;  // the last one: its bytes were not all on the disk
      fail(at, "a record does not have its digest: the file is damaged; restore it from a copy, or remove it and pay for its answers again");
    }
    const Digest request = digest_at(record, 1);
    switch (record[0]) {
      case kSent:
        if (payload != 4) fail(at, "a record of a sent request is not 4 bytes");
        if (!state.answered.contains(request)) state.open[request] = add_tokens(state.open[request], u32_at(record, size_t(kBefore)));
        break;
      case kAnswered:
      case kText: {
        const bool text = record[0] == kText;
        const LedgerAnswer answer = read_ledger_answer(record.subspan(size_t(kBefore), size_t(payload)), file, at + kBefore, text);
        if (!state.answered.emplace(request, LedgerState::Place{at + kBefore, payload, text}).second) fail(at, "a request is answered twice");
        state.tokens = add_tokens(state.tokens, answer.tokens);
        state.open.erase(request);
        break;
      }
      case kRefused:
        if (payload != 0) fail(at, "a record of a refusal has a payload");
        state.open.erase(request);
        break;
      default: fail(at, fmt::format("a record is of kind {}, which this version does not know", record[0]));
    }
    at += end + kAfter;
  }
  state.bytes = at;
  return state;
}

LedgerAnswer read_ledger_answer(std::span<const uint8_t> payload, const fs::path& file, int64_t offset, bool text) {
  LedgerAnswer answer;
  const auto require = [&](bool good) {
    if (!good) throw FormatError(file, offset, "an answer's lengths do not sum to its bytes");
  };
  if (text) {
    require(payload.size() >= 4);
    answer.tokens = u32_at(payload, 0);
    answer.text = std::string(payload.begin() + 4, payload.end());
    return answer;
  }
  require(payload.size() >= 10);
  answer.tokens = u32_at(payload, 0);
  answer.unnamed = u32_at(payload, 4);
  const size_t rows = size_t(payload[8]) | size_t(payload[9]) << 8;
  require(payload.size() >= 10 + rows);
  const auto lengths = payload.subspan(10, rows), entries = payload.subspan(10 + rows);
  const int64_t sum = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const RowEncoding encoding{RowEncoding::Kind::top_k};
  require(int64_t(entries.size()) == sum * encoding.entry_bytes());
  answer.rows.lengths.assign(lengths.begin(), lengths.end());
  answer.rows.entries.assign(entries.begin(), entries.end());
  return answer;
}

struct AnswerLedger::Impl {
  fs::path path;
  int fd = -1;
  mutable std::mutex mutex;
  LedgerState state;

  void append(const std::string& record, bool durable) {
    size_t done = 0;
    while (done < record.size()) {
      const ssize_t n = ::write(fd, record.data() + done, record.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const int error = n < 0 ? errno : EIO;
        // What is half written would be taken for damage once something follows it.
        if (::ftruncate(fd, state.bytes) != 0) throw IoError(path, "cannot cut off a record that was not written whole", errno);
        throw IoError(path, "cannot write", error);
      }
      done += size_t(n);
    }
    if (durable && ::fdatasync(fd) != 0) throw IoError(path, "cannot write to the disk", errno);
    state.bytes += int64_t(record.size());
  }
};

AnswerLedger::AnswerLedger(const fs::path& file, const Digest& teacher) : impl_(std::make_unique<Impl>()) {
  Impl& s = *impl_;
  s.path = file;
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  s.fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (s.fd < 0) throw IoError(file, "cannot open", errno);
  if (::flock(s.fd, LOCK_EX | LOCK_NB) != 0) {
    const bool busy = errno == EWOULDBLOCK;
    ::close(std::exchange(s.fd, -1));
    throw IoError(file, busy ? "another overproof process asks this server for answers" : "cannot lock", busy ? 0 : errno);
  }
  try {
    const MappedFile mapped(file);
    s.state = read_ledger(mapped.bytes(), teacher, file);
  } catch (...) {
    ::close(std::exchange(s.fd, -1));
    throw;
  }
  if (::ftruncate(s.fd, s.state.bytes) != 0) throw IoError(file, "cannot cut off a torn record", errno);
  if (s.state.bytes == 0) {
    s.append(std::string(kMagic) + std::string(text_of(teacher)), true);
    fsync_folder(file.parent_path());
  }
}

AnswerLedger::~AnswerLedger() {
  if (impl_->fd >= 0) ::close(impl_->fd);
}

bool AnswerLedger::has(const Digest& request) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->state.answered.contains(request);
}

void AnswerLedger::note_sent(const Digest& request, int64_t tokens) {
  std::string payload;
  put_u32(payload, tokens);
  const std::lock_guard lock(impl_->mutex);
  impl_->append(record_of(kSent, request, payload), false);  // a killed program's writes reach the file
  impl_->state.open[request] = add_tokens(impl_->state.open[request], tokens);
}

void AnswerLedger::note_refused(const Digest& request) {
  const std::lock_guard lock(impl_->mutex);
  impl_->append(record_of(kRefused, request, ""), false);
  impl_->state.open.erase(request);
}

void AnswerLedger::add_answer(const Digest& request, const LedgerAnswer& answer) {
  OVERPROOF_CHECK(answer.rows.lengths.size() <= UINT16_MAX);
  std::string payload;
  put_u32(payload, answer.tokens);
  if (answer.text) {
    payload += *answer.text;
  } else {
    put_u32(payload, answer.unnamed);
    payload += char(answer.rows.lengths.size());
    payload += char(answer.rows.lengths.size() >> 8);
    payload.append(answer.rows.lengths.begin(), answer.rows.lengths.end());
    payload.append(answer.rows.entries.begin(), answer.rows.entries.end());
  }
  const std::string record = record_of(answer.text ? kText : kAnswered, request, payload);
  const std::lock_guard lock(impl_->mutex);
  OVERPROOF_CHECK(!impl_->state.answered.contains(request));
  const int64_t at = impl_->state.bytes + kBefore;
  impl_->append(record, true);
  impl_->state.answered[request] = {at, int64_t(payload.size()), answer.text.has_value()};
  impl_->state.tokens = add_tokens(impl_->state.tokens, answer.tokens);
  impl_->state.open.erase(request);
}

LedgerAnswer AnswerLedger::answer(const Digest& request) const {
  LedgerState::Place place{};
  {
    const std::lock_guard lock(impl_->mutex);
    const auto found = impl_->state.answered.find(request);
    OVERPROOF_CHECK(found != impl_->state.answered.end());
    place = found->second;
  }
  std::vector<uint8_t> payload(static_cast<size_t>(place.bytes));
  int64_t done = 0;
  while (done < place.bytes) {
    const ssize_t n = ::pread(impl_->fd, payload.data() + done, size_t(place.bytes - done), place.offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw IoError(impl_->path, "cannot read", n < 0 ? errno : EIO);
    done += n;
  }
  return read_ledger_answer(payload, impl_->path, place.offset, place.text);
}

int64_t AnswerLedger::tokens() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->state.tokens;
}

int64_t AnswerLedger::maybe_paid() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->state.maybe_paid();
}

}  // namespace overproof
