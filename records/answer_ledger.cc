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
#include "core/utf8.h"
#include "records/row_encoding.h"

namespace overproof {
namespace {

constexpr std::string_view kMagic = "OVPANSW1";
constexpr int64_t kHeader = 8 + 32, kBefore = 1 + 32 + 4, kAfter = 32, kMostPayload = int64_t{1} << 28;
constexpr int64_t kMostTokens = UINT32_MAX;
enum Kind : uint8_t { kSent = 1, kAnswered = 2, kRefused = 3, kWritten = 4 };

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
      case kAnswered: {
        const LedgerAnswer answer = read_ledger_answer(record.subspan(size_t(kBefore), size_t(payload)), file, at + kBefore);
        if (!state.answered.emplace(request, LedgerState::Place{at + kBefore, payload}).second) fail(at, "a request is answered twice");
        state.tokens = add_tokens(state.tokens, answer.tokens);
        state.open.erase(request);
        break;
      }
      case kWritten: {
        const LedgerText text = read_ledger_text(record.subspan(size_t(kBefore), size_t(payload)), file, at + kBefore);
        if (!state.answered.emplace(request, LedgerState::Place{at + kBefore, payload, true}).second) fail(at, "a request is answered twice");
        state.tokens = add_tokens(state.tokens, text.tokens);
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

LedgerText read_ledger_text(std::span<const uint8_t> payload, const fs::path& file, int64_t offset) {
  if (payload.size() < 5 || payload[4] > 1) throw FormatError(file, offset, "a text's record is no text");
  LedgerText text{.tokens = u32_at(payload, 0), .whole = payload[4] == 1, .text = std::string(payload.begin() + 5, payload.end())};
  if (const int64_t fault = invalid_utf8_at(text.text); fault >= 0) throw FormatError(file, offset + 5 + fault, "a text is not UTF-8");
  return text;
}

LedgerAnswer read_ledger_answer(std::span<const uint8_t> payload, const fs::path& file, int64_t offset) {
  LedgerAnswer answer;
  const auto require = [&](bool good) {
    if (!good) throw FormatError(file, offset, "an answer's lengths do not sum to its bytes");
  };
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

  void add(Kind kind, const Digest& request, std::string_view payload, int64_t tokens) {
    const std::string record = record_of(kind, request, payload);
    const std::lock_guard lock(mutex);
    OVERPROOF_CHECK(!state.answered.contains(request));
    const int64_t at = state.bytes + kBefore;
    append(record, true);
    state.answered[request] = {at, int64_t(payload.size()), kind == kWritten};
    state.tokens = add_tokens(state.tokens, tokens);
    state.open.erase(request);
  }

  /// The payload of an answer, and where it is.
  std::pair<std::vector<uint8_t>, int64_t> payload_of(const Digest& request, bool text) const {
    LedgerState::Place place{};
    {
      const std::lock_guard lock(mutex);
      const auto found = state.answered.find(request);
      OVERPROOF_CHECK(found != state.answered.end());
      place = found->second;
    }
    if (place.text != text) throw FormatError(path, place.offset, "an answer is of another kind than its request");
    std::vector<uint8_t> payload(static_cast<size_t>(place.bytes));
    int64_t done = 0;
    while (done < place.bytes) {
      const ssize_t n = ::pread(fd, payload.data() + done, size_t(place.bytes - done), place.offset + done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw IoError(path, "cannot read", n < 0 ? errno : EIO);
      done += n;
    }
    return {std::move(payload), place.offset};
  }

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
  put_u32(payload, answer.unnamed);
  payload += char(answer.rows.lengths.size());
  payload += char(answer.rows.lengths.size() >> 8);
  payload.append(answer.rows.lengths.begin(), answer.rows.lengths.end());
  payload.append(answer.rows.entries.begin(), answer.rows.entries.end());
  impl_->add(kAnswered, request, payload, answer.tokens);
}

void AnswerLedger::add_text(const Digest& request, const LedgerText& text) {
  std::string payload;
  put_u32(payload, text.tokens);
  payload += char(text.whole);
  payload += text.text;
  impl_->add(kWritten, request, payload, text.tokens);
}

LedgerAnswer AnswerLedger::answer(const Digest& request) const {
  const auto [payload, at] = impl_->payload_of(request, false);
  return read_ledger_answer(payload, impl_->path, at);
}

LedgerText AnswerLedger::text(const Digest& request) const {
  const auto [payload, at] = impl_->payload_of(request, true);
  return read_ledger_text(payload, impl_->path, at);
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
