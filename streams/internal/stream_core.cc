#include "streams/internal/stream_core.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/error.h"
#include "streams/internal/cord_search.h"
#include "streams/sleep.h"
#include "streams/tls_engine.h"
#include "streams/tls_stream.h"

namespace sockbroker::streams {

absl::StatusOr<Connection> MakeConnection(EventLoop* loop, std::shared_ptr<ByteStream> stream,
                                          StreamOptions options) {
  if (options.limit == 0) return absl::InvalidArgumentError("Limit cannot be <= 0");
  return internal::StreamCore::Start(
      std::make_shared<internal::StreamCore>(loop, std::move(stream), options));
}

namespace internal {
namespace {

constexpr std::size_t kUnboundedRead = ~std::size_t{0};

}  // namespace

WriterHandle::~WriterHandle() { core->Close(/*discard_pending=*/false); }

StreamCore::StreamCore(EventLoop* loop, std::shared_ptr<ByteStream> stream,
                       const StreamOptions& options)
    : loop_(loop),
      stream_(std::move(stream)),
      limit_(options.limit),
      close_timeout_(options.close_timeout),
      close_timer_(loop, [this] {
        stream_->Abort(/*reset=*/true,
                       PhaseTimeoutError("close", "the peer did not take what was left to send"));
      }) {}

Connection StreamCore::Start(const std::shared_ptr<StreamCore>& core) {
  core->stream_->Start(core);
  return {StreamReader(core), StreamWriter(std::make_shared<WriterHandle>(core))};
}

// --- reading

absl::Status StreamCore::PrepareToWait(absl::string_view caller) {
  if (!data_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        caller, "() called while another coroutine is already waiting for incoming data"));
  }
  if (reading_paused_) {
    reading_paused_ = false;
    stream_->ResumeReading();
  }
  if (!buffer_.empty()) stream_->OnReadBlocked(buffer_.size());
  return absl::OkStatus();
}

void StreamCore::PauseReading() {
  if (reading_paused_) return;
  reading_paused_ = true;
  stream_->PauseReading();
}

void StreamCore::MaybeResumeReading() {
  if (reading_paused_ && buffer_.size() <= limit_ && puller_ == nullptr) {
    reading_paused_ = false;
    stream_->ResumeReading();
  }
}

absl::Cord StreamCore::Take(std::size_t n) {
  absl::Cord taken;
  if (n >= buffer_.size()) {
    taken = std::move(buffer_);
    buffer_.Clear();
  } else {
    taken = buffer_.Subcord(0, n);
    buffer_.RemovePrefix(n);
  }
  const std::size_t again = std::min(unread_, taken.size());
  unread_ -= again;
  if (taken.size() > again) stream_->OnConsumed(taken.size() - again);
  MaybeResumeReading();
  return taken;
}

Task<absl::StatusOr<absl::Cord>> StreamCore::Read(std::shared_ptr<StreamCore> core, std::size_t n) {
  if (n == 0) {
    if (core->buffer_.empty() && !core->error_.ok()) co_return core->error_;
    co_return absl::Cord();
  }
  // A reader that never has to wait must still let others run.
  if (!core->buffer_.empty() && !core->loop_->TakeBudget()) co_await Yield();
  while (core->buffer_.empty()) {
    if (!core->error_.ok()) co_return core->error_;
    if (core->eof_) co_return absl::Cord();
    absl::Status status = core->PrepareToWait("read");
    if (status.ok()) status = co_await core->data_.Wait();
    if (!status.ok()) co_return status;
  }
  co_return core->Take(n);
}

Task<absl::StatusOr<absl::Cord>> StreamCore::ReadAll(std::shared_ptr<StreamCore> core) {
  absl::Cord all;
  while (true) {
    absl::StatusOr<absl::Cord> block = co_await Read(core, core->limit_);
    if (!block.ok()) {
      core->Unread(std::move(all));
      co_return block.status();
    }
    if (block->empty()) co_return all;
    all.Append(*std::move(block));
  }
}

Task<absl::StatusOr<absl::Cord>> StreamCore::ReadLine(std::shared_ptr<StreamCore> core) {
  std::vector<std::string> newline(1, "\n");
  absl::StatusOr<absl::Cord> line = co_await ReadUntil(std::move(core), std::move(newline));
  if (!line.ok()) {
    if (std::optional<IncompleteRead> incomplete = GetIncompleteRead(line.status())) {
      co_return std::move(incomplete->partial);
    }
  }
  co_return line;
}

Task<absl::StatusOr<absl::Cord>> StreamCore::ReadUntil(std::shared_ptr<StreamCore> core,
                                                       std::vector<std::string> separators) {
  if (separators.empty()) {
    co_return absl::InvalidArgumentError("Separator should contain at least one element");
  }
  std::sort(separators.begin(), separators.end(),
            [](const std::string& a, const std::string& b) { return a.size() < b.size(); });
  const std::size_t shortest = separators.front().size();
  const std::size_t longest = separators.back().size();
  if (shortest == 0) {
    co_return absl::InvalidArgumentError("Separator should be at least one-byte string");
  }
  if (!core->buffer_.empty() && !core->loop_->TakeBudget()) co_await Yield();

  // Before `offset` no separator starts. asyncio's algorithm, so that what counts as an overrun is
  // the same.
  std::size_t offset = 0;
  std::optional<Match> match;
  while (true) {
    const std::size_t size = core->buffer_.size();
    // Another caller may have taken bytes while this one waited.
    offset = std::min(offset, size);
    if (size - offset >= shortest) {
      match = FindFirstEnding(core->buffer_, separators, offset);
      if (match.has_value()) break;
      offset = size + 1 > longest ? size + 1 - longest : 0;
      if (offset > core->limit_) {
        co_return LimitOverrunError("Separator is not found, and chunk exceed the limit", offset);
      }
    }
    if (core->EndsIncomplete()) co_return IncompleteReadError(core->Take(size), std::nullopt);
    if (!core->error_.ok()) co_return core->error_;
    absl::Status status = core->PrepareToWait("readuntil");
    if (status.ok()) status = co_await core->data_.Wait();
    if (!status.ok()) co_return status;
  }
  if (match->start > core->limit_) {
    co_return LimitOverrunError("Separator is found, but chunk is longer than limit", match->start);
  }
  co_return core->Take(match->end);
}

Task<absl::StatusOr<absl::Cord>> StreamCore::ReadExactly(std::shared_ptr<StreamCore> core,
                                                         std::size_t n) {
  if (n == 0) {
    if (core->buffer_.empty() && !core->error_.ok()) co_return core->error_;
    co_return absl::Cord();
  }
  if (core->buffer_.size() >= n && !core->loop_->TakeBudget()) co_await Yield();
  while (core->buffer_.size() < n) {
    if (core->EndsIncomplete()) {
      co_return IncompleteReadError(core->Take(core->buffer_.size()), n);
    }
    if (!core->error_.ok()) co_return core->error_;
    absl::Status status = core->PrepareToWait("readexactly");
    if (status.ok()) status = co_await core->data_.Wait();
    if (!status.ok()) co_return status;
  }
  co_return core->Take(n);
}

void StreamCore::Unread(absl::Cord data) {
  if (data.empty()) return;
  unread_ += data.size();
  buffer_.Prepend(data);
  data_.WakeAll();
}

absl::Cord StreamCore::TakeBack() {
  absl::Cord received = std::exchange(buffer_, absl::Cord());
  bytes_received_ -= received.size();
  unread_ = 0;
  return received;
}

void StreamCore::NotifyEof(std::function<void()> callback) {
  on_eof_ = std::move(callback);
  if (!eof_ || lost_) return;
  loop_->CallSoon([self = shared_from_this()] {
    if (self->on_eof_) std::exchange(self->on_eof_, nullptr)();
  });
}

void StreamCore::NotifyClosed(std::function<void()> callback) {
  on_closed_ = std::move(callback);
  if (lost_ && on_closed_) TellClosed();
}

// Behind those who wait: they see what was received before.
void StreamCore::TellClosed() {
  loop_->CallSoon([self = shared_from_this()] {
    if (self->on_closed_) std::exchange(self->on_closed_, nullptr)();
  });
}

void StreamCore::set_limit(std::size_t limit) {
  limit_ = std::max<std::size_t>(limit, 1);
  MaybeResumeReading();
}

void StreamCore::BeginPull(PullListener* listener) {
  puller_ = listener;
  PauseReading();
}

absl::Cord StreamCore::Pull(std::size_t max) {
  if (!buffer_.empty() || max == 0) {
    PauseReading();
    return max == 0 ? absl::Cord() : Take(max);
  }
  stream_->SetReadSize(max);
  if (std::exchange(reading_paused_, false)) stream_->ResumeReading();
  return absl::Cord();
}

void StreamCore::EndPull() {
  puller_ = nullptr;
  stream_->SetReadSize(kUnboundedRead);
  MaybeResumeReading();
}

void StreamCore::OnData(absl::Cord data) {
  bytes_received_ += data.size();
  buffer_.Append(std::move(data));
  if (puller_ != nullptr) {
    PauseReading();
    puller_->OnReadable();
    return;
  }
  data_.WakeAll();
  if (!reading_paused_ && buffer_.size() > 2 * limit_) {
    reading_paused_ = true;
    stream_->PauseReading();
  }
}

bool StreamCore::OnEof() {
  eof_ = true;
  data_.WakeAll();
  if (puller_ != nullptr) puller_->OnReadable();
  if (on_eof_) std::exchange(on_eof_, nullptr)();
  return true;
}

// --- writing

absl::Status StreamCore::Write(absl::Cord data, absl::string_view caller) {
  if (write_eof_) {
    return absl::FailedPreconditionError(
        absl::StrCat("Cannot call ", caller, "() after write_eof()"));
  }
  if (!data.empty()) stream_->Write(std::move(data));
  return absl::OkStatus();
}

absl::Status StreamCore::WriteEof() {
  if (!stream_->CanWriteEof()) {
    return absl::UnimplementedError("this stream can't end one direction alone");
  }
  if (write_eof_ || stream_->is_closing()) return absl::OkStatus();
  write_eof_ = true;
  stream_->WriteEof();
  return absl::OkStatus();
}

Task<absl::Status> StreamCore::Drain(std::shared_ptr<StreamCore> core) {
  if (!core->error_.ok()) co_return core->error_;
  if (core->stream_->is_closing()) co_await Yield();  // lets a loss that is under way be seen
  if (core->lost_) co_return ErrnoToStatus(ECONNRESET, "Connection lost");
  if (!core->writing_paused_) {
    if (!core->loop_->TakeBudget()) co_await Yield();
    co_return absl::OkStatus();
  }
  co_return co_await core->drained_.Wait();
}

void StreamCore::OnFlushed() {
  if (puller_ != nullptr) puller_->OnFlushed();
}

void StreamCore::OnPauseWriting() { writing_paused_ = true; }

void StreamCore::OnResumeWriting() {
  writing_paused_ = false;
  drained_.WakeAll();
  if (puller_ == nullptr) return;
  // In a turn of its own: the stream may be at work.
  loop_->CallSoon([self = shared_from_this()] { self->OnFlushed(); });
}

// --- TLS

Task<absl::Status> StreamCore::StartTls(std::shared_ptr<StreamCore> core,
                                        std::shared_ptr<const TlsContext> context,
                                        StartTlsOptions options) {
  if (context == nullptr) co_return absl::InvalidArgumentError("start_tls() needs a context");
  if (options.stream.handshake_timeout <= absl::ZeroDuration() ||
      options.stream.shutdown_timeout <= absl::ZeroDuration()) {
    co_return absl::InvalidArgumentError("a TLS time-out should be a positive number");
  }
  if (core->upgrading_) {
    co_return absl::FailedPreconditionError("another start_tls() is under way");
  }
  if (core->write_eof_) co_return absl::FailedPreconditionError("start_tls() after write_eof()");
  absl::StatusOr<std::unique_ptr<TlsEngine>> engine =
      TlsEngine::Create(std::move(context), std::move(options.server_hostname));
  if (!engine.ok()) co_return engine.status();

  if (core->lost_ || core->stream_->is_closing()) {
    co_return ErrnoToStatus(ECONNRESET, "Connection lost");
  }
  if (core->eof_) {
    co_return absl::FailedPreconditionError("start_tls() after the peer has ended its direction");
  }
  if (!core->buffer_.empty() && options.unread == StartTlsOptions::Unread::kRefuse) {
    co_return absl::FailedPreconditionError(
        absl::StrCat(core->buffer_.size(), " unread bytes of plaintext stand before start_tls()"));
  }

  // From here to StartUpgrade nothing can come between: no byte that arrives later is plaintext,
  // and none that is written later goes out in clear. What was written before stands in front of
  // the handshake, in the stream below; asyncio drains it first, which would leave a gap.
  core->upgrading_ = true;
  absl::Cord received = core->TakeBack();
  core->stream_->OnConsumed(received.size());
  core->reading_paused_ = false;
  auto tls = TlsStream::Create(core->loop_, core->stream_, *std::move(engine), options.stream);
  core->stream_ = tls;
  if (core->puller_ != nullptr) core->PauseReading();
  tls->StartUpgrade(core, std::move(received), core->writing_paused_);
  const absl::Status status = co_await TlsStream::WaitHandshake(tls);
  core->upgrading_ = false;
  co_return status;
}

// --- the end

void StreamCore::Close(bool discard_pending) {
  if (lost_) return;
  if (discard_pending) {
    stream_->Abort(/*reset=*/false, absl::OkStatus());
  } else if (!stream_->is_closing()) {
    stream_->Close();
    if (close_timeout_ != absl::InfiniteDuration()) close_timer_.SetAfter(close_timeout_);
  }
}

void StreamCore::set_close_timeout(absl::Duration timeout) {
  close_timeout_ = timeout;
  if (close_timer_.armed()) close_timer_.SetAfter(timeout);
}

void StreamCore::Abort(absl::Status reason) {
  if (!lost_) stream_->Abort(/*reset=*/true, std::move(reason));
}

Task<absl::Status> StreamCore::WaitClosed(std::shared_ptr<StreamCore> core) {
  while (!core->lost_) {
    if (absl::Status status = co_await core->closed_.Wait(); !status.ok()) co_return status;
  }
  co_return core->error_;
}

void StreamCore::OnConnectionLost(const absl::Status& status) {
  lost_ = true;
  on_eof_ = nullptr;
  close_timer_.Cancel();
  if (status.ok()) {
    eof_ = true;
  } else {
    error_ = status;
  }
  data_.WakeAll();
  drained_.WakeAll(status);
  closed_.WakeAll();
  if (on_closed_) TellClosed();
  if (on_lost_) std::exchange(on_lost_, nullptr)();
}

}  // namespace internal
}  // namespace sockbroker::streams
