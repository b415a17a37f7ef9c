#include "streams/tls_stream.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/error.h"

namespace sockbroker::streams {
namespace {

// At most so much is decrypted in one turn, as at most so much is received.
constexpr std::size_t kMaxRead = 256 * 1024;

}  // namespace

std::shared_ptr<TlsStream> TlsStream::Create(EventLoop* loop, std::shared_ptr<ByteStream> lower,
                                             std::unique_ptr<TlsEngine> engine,
                                             TlsStreamOptions options) {
  return std::shared_ptr<TlsStream>(
      new TlsStream(loop, std::move(lower), std::move(engine), options));
}

TlsStream::TlsStream(EventLoop* loop, std::shared_ptr<ByteStream> lower,
                     std::unique_ptr<TlsEngine> engine, TlsStreamOptions options)
    : loop_(loop),
      lower_(std::move(lower)),
      engine_(std::move(engine)),
      options_(options),
      timer_(loop,
             [this] {
               if (open_) {
                 FailWith(PhaseTimeoutError("shutdown", "SSL shutdown timed out"));
               } else {
                 FailWith(PhaseTimeoutError(
                     "handshake", absl::StrCat("SSL handshake is taking longer than ",
                                               absl::FormatDuration(options_.handshake_timeout),
                                               ": aborting the connection")));
               }
             }),
      base_(lower_->bytes_flushed() + lower_->write_buffer_size()) {}

void TlsStream::Start(std::shared_ptr<StreamProtocol> protocol) {
  protocol_ = std::move(protocol);
  lower_->Start(shared_from_this());
  BeginHandshake();
}

void TlsStream::StartUpgrade(std::shared_ptr<StreamProtocol> protocol, absl::Cord received) {
  protocol_ = std::move(protocol);
  lower_->SetProtocol(shared_from_this());
  lower_->ResumeReading();
  engine_->FeedCiphertext(std::move(received));
  BeginHandshake();
}

void TlsStream::SetProtocol(std::shared_ptr<StreamProtocol> protocol) {
  protocol_ = std::move(protocol);
}

// --- the handshake

void TlsStream::BeginHandshake() {
  timer_.SetAfter(options_.handshake_timeout);
  // From the loop, as everything that can call the protocol.
  PumpLater();
}

void TlsStream::ContinueHandshake() {
  const TlsEngine::Result result = engine_->Handshake();
  FlushCiphertext();
  if (result == TlsEngine::Result::kDone) {
    open_ = true;
    timer_.Cancel();
    handshake_.WakeAll();
    EncryptPending();
  } else if (result == TlsEngine::Result::kError) {
    FailWith(engine_->error());
  } else if (result == TlsEngine::Result::kClosed || lower_eof_) {
    FailWith(ErrnoToStatus(ECONNRESET, "the peer closed the connection during the TLS handshake"));
  }
}

Task<absl::Status> TlsStream::WaitHandshake(std::shared_ptr<TlsStream> stream) {
  while (!stream->open_ && stream->failure_.ok() && !stream->lost_) {
    if (absl::Status status = co_await stream->handshake_.Wait();
        !status.ok() && stream->failure_.ok() && !stream->lost_) {
      // Cancelled: half a handshake is of use to nobody.
      stream->FailWith(status);
      co_return status;
    }
  }
  if (stream->open_) co_return absl::OkStatus();
  if (!stream->failure_.ok()) co_return stream->failure_;
  co_return ErrnoToStatus(ECONNABORTED, "the connection was closed during the TLS handshake");
}

// --- moving on

void TlsStream::PumpLater() {
  if (std::exchange(pump_scheduled_, true)) return;
  loop_->CallSoon([self = shared_from_this()] {
    self->pump_scheduled_ = false;
    self->Pump();
  });
}

void TlsStream::Pump() {
  if (lost_ || !failure_.ok()) return;
  if (!open_) ContinueHandshake();
  if (!failure_.ok()) return;
  if (shutting_down_) {
    ContinueShutdown();
  } else if (open_) {
    ReadPlain();
  }
  ControlReading();
}

void TlsStream::OnData(absl::Cord data) {
  engine_->FeedCiphertext(std::move(data));
  Pump();
}

bool TlsStream::OnEof() {
  lower_eof_ = true;
  Pump();
  return true;
}

// --- reading

void TlsStream::ReadPlain() {
  if (reading_paused_ || peer_closed_) return;
  absl::Cord plain;
  const TlsEngine::Result result = engine_->Read(&plain, kMaxRead);
  FlushCiphertext();
  if (!plain.empty()) protocol_->OnData(std::move(plain));
  // What lies behind the data waits as well: the engine says it again when asked again.
  if (reading_paused_ || shutting_down_) return;
  switch (result) {
    case TlsEngine::Result::kDone:
      PumpLater();
      break;
    case TlsEngine::Result::kError:
      FailWith(engine_->error());
      break;
    case TlsEngine::Result::kClosed:
      PeerClosed();
      break;
    case TlsEngine::Result::kWantInput:
      if (!lower_eof_) break;
      truncated_ = true;
      if (options_.require_close_notify) {
        FailWith(TlsTruncatedError());
      } else {
        PeerClosed();
      }
      break;
  }
}

void TlsStream::PeerClosed() {
  peer_closed_ = true;
  const bool may_stay_open = protocol_->OnEof();
  if (!may_stay_open || !CanWriteEof() || lower_eof_) BeginShutdown();
}

void TlsStream::PauseReading() { reading_paused_ = true; }

void TlsStream::ResumeReading() {
  reading_paused_ = false;
  PumpLater();
}

void TlsStream::ControlReading() {
  const std::size_t pending = engine_->ciphertext_pending();
  if (!lower_reading_paused_ && pending > kCiphertextHighWater) {
    lower_reading_paused_ = true;
    lower_->PauseReading();
  } else if (lower_reading_paused_ && pending <= kCiphertextLowWater) {
    lower_reading_paused_ = false;
    lower_->ResumeReading();
  }
}

// --- writing

void TlsStream::Write(absl::Cord data) {
  if (closing_ || lost_ || sent_close_notify_) return;
  plain_.Append(std::move(data));
  EncryptPending();
}

void TlsStream::EncryptPending() {
  if (open_ && !plain_.empty()) {
    const std::size_t size = plain_.size();
    if (engine_->Write(&plain_) != TlsEngine::Result::kDone) {
      FailWith(engine_->error());
      return;
    }
    encrypted_ += size;
    FlushCiphertext();
  }
  ControlWriting();
}

void TlsStream::FlushCiphertext() {
  cipher_.Append(engine_->TakeCiphertext());
  if (cipher_.empty()) return;
  const uint64_t plain_end = base_ + encrypted_;
  if (marks_.empty() ? plain_end > std::max(base_, flushed_)
                     : plain_end > marks_.back().plain_end) {
    marks_.push_back({base_ + lower_given_ + cipher_.size(), plain_end});
  }
  if (lower_writing_paused_) return;
  lower_given_ += cipher_.size();
  lower_->Write(std::exchange(cipher_, absl::Cord()));
}

uint64_t TlsStream::bytes_flushed() const {
  const uint64_t lower_flushed = lower_->bytes_flushed();
  if (lower_flushed < base_) return lower_flushed;
  flushed_ = std::max(flushed_, base_);
  while (!marks_.empty() && marks_.front().lower_end <= lower_flushed) {
    flushed_ = marks_.front().plain_end;
    marks_.pop_front();
  }
  return flushed_;
}

void TlsStream::OnPauseWriting() { lower_writing_paused_ = true; }

void TlsStream::OnResumeWriting() {
  lower_writing_paused_ = false;
  if (lost_) return;
  FlushCiphertext();
  ControlWriting();
  if (shutting_down_) Pump();
}

void TlsStream::SetWriteBufferLimits(std::size_t high, std::size_t low) {
  high_water_ = high;
  low_water_ = low;
  ControlWriting();
}

void TlsStream::ControlWriting() {
  const std::size_t size = write_buffer_size();
  if (!writing_paused_ && size > 0 && size >= high_water_) {
    writing_paused_ = true;
    protocol_->OnPauseWriting();
  } else if (writing_paused_ && size <= low_water_) {
    writing_paused_ = false;
    protocol_->OnResumeWriting();
  }
}

bool TlsStream::CanWriteEof() const {
  return open_ && options_.allow_half_close && engine_->info().version == "TLSv1.3";
}

void TlsStream::WriteEof() {
  if (closing_ || sent_close_notify_ || !CanWriteEof()) return;
  sent_close_notify_ = true;
  if (engine_->SendCloseNotify() != TlsEngine::Result::kDone) {
    FailWith(engine_->error());
    return;
  }
  FlushCiphertext();
}

// --- the end

void TlsStream::Close() {
  if (closing_ || lost_) return;
  if (open_) {
    BeginShutdown();
  } else {
    // asyncio: closing during the handshake aborts.
    Abort(/*reset=*/false, absl::OkStatus());
  }
}

void TlsStream::BeginShutdown() {
  if (shutting_down_ || lost_) return;
  closing_ = true;
  shutting_down_ = true;
  timer_.SetAfter(options_.shutdown_timeout);
  PumpLater();
}

void TlsStream::ContinueShutdown() {
  if (!sent_close_notify_) {
    // What came before our close_notify is of no use to anybody any more, but it stands before the
    // peer's.
    TlsEngine::Result result;
    do {
      absl::Cord unread;
      result = engine_->Read(&unread, kMaxRead);
    } while (result == TlsEngine::Result::kDone);
    FlushCiphertext();
    if (result == TlsEngine::Result::kError) {
      FailWith(engine_->error());
      return;
    }
    if (!cipher_.empty()) return;  // goes on when the stream below takes more
    sent_close_notify_ = true;
  }
  const TlsEngine::Result result = engine_->Shutdown();
  FlushCiphertext();
  if (result == TlsEngine::Result::kError) {
    FailWith(engine_->error());
  } else if (result != TlsEngine::Result::kWantInput || lower_eof_) {
    // The timer goes on: the stream below may have something left to flush.
    lower_->Close();
  }
}

void TlsStream::Abort(bool reset, absl::Status status) {
  if (lost_) return;
  closing_ = true;
  if (failure_.ok()) failure_ = status;
  lower_->Abort(reset, std::move(status));
}

void TlsStream::FailWith(absl::Status status) {
  if (lost_ || !failure_.ok()) return;
  failure_ = status;
  closing_ = true;
  FlushCiphertext();  // the alert that tells the peer why
  handshake_.WakeAll();
  lower_->Abort(/*reset=*/false, std::move(status));
}

void TlsStream::OnConnectionLost(const absl::Status& status) {
  lost_ = true;
  closing_ = true;
  timer_.Cancel();
  if (failure_.ok()) failure_ = status;
  handshake_.WakeAll();
  if (const std::shared_ptr<StreamProtocol> protocol = std::move(protocol_)) {
    protocol->OnConnectionLost(failure_);
  }
}

}  // namespace sockbroker::streams
