#include "streams/tls_stream.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/error.h"

namespace sockbroker::streams {
namespace {

// At most so much is decrypted in one turn, as at most so much is received.
constexpr std::size_t kMaxRead = 256 * 1024;
// The largest record, and a little.
constexpr std::size_t kRecord = 17 * 1024;

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
      read_size_(kMaxRead),
      base_(lower_->bytes_flushed() + lower_->write_buffer_size()) {}

void TlsStream::Start(std::shared_ptr<StreamProtocol> protocol) {
  protocol_ = std::move(protocol);
  lower_->Start(shared_from_this());
  BeginHandshake();
}

void TlsStream::StartUpgrade(std::shared_ptr<StreamProtocol> protocol, absl::Cord received,
                             bool writing_paused) {
  protocol_ = std::move(protocol);
  // The stream below tells us of its room from now on; whoever waits for it above hears it from us.
  lower_writing_paused_ = writing_paused_ = writing_paused;
  lower_->SetProtocol(shared_from_this());
  lower_->SetReadSize(kMaxRead);
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
    protocol_->OnFlushed();
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
      // Cancelled: half a handshake is of use to nobody. Whoever reads or writes was not cancelled.
      stream->FailWith(ErrnoToStatus(ECONNABORTED, "the TLS handshake was cancelled"));
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
  if (lost_ || aborted_) return;
  if (!open_) ContinueHandshake();
  if (aborted_) return;
  if (shutting_down_) {
    ContinueShutdown();
  } else if (open_) {
    ReadPlain();
  }
  ControlReading();
}

void TlsStream::OnData(absl::Cord data) {
  lower_->OnConsumed(data.size());
  engine_->FeedCiphertext(std::move(data));
  Pump();
}

bool TlsStream::OnEof() {
  lower_eof_ = true;
  Pump();
  return true;
}

// --- reading

TlsEngine::Result TlsStream::Decrypt(absl::Cord* plain) {
  const TlsEngine::Result result = engine_->Read(plain, read_size_);
  const std::size_t kept = cipher_.size();
  FlushCiphertext();
  if (result == TlsEngine::Result::kError) return result;
  // A peer that makes us answer and takes no answers would fill our memory.
  if (lower_writing_paused_) unread_answers_ += cipher_.size() - kept;
  if (unread_answers_ > kMaxUnreadAnswers) {
    FailWith(TlsError("the peer takes none of the answers that it makes TLS give"));
    return TlsEngine::Result::kError;
  }
  // A message of the handshake that stood in the way may now be whole.
  if (!plain_.empty() || write_eof_) EncryptPending();
  return result;
}

void TlsStream::ReadPlain() {
  if (reading_paused_ || peer_closed_) return;
  absl::Cord plain;
  const TlsEngine::Result result = Decrypt(&plain);
  if (!plain.empty()) protocol_->OnData(std::move(plain));
  // What lies behind the data waits as well: the engine says it again when asked again.
  if (reading_paused_ || shutting_down_ || aborted_) return;
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
  // The peer may have ended its direction below TLS as well; what counts is how it ended TLS's.
  if (!may_stay_open || !CanWriteEof() || truncated_) BeginShutdown();
}

void TlsStream::PauseReading() { reading_paused_ = true; }

void TlsStream::ResumeReading() {
  reading_paused_ = false;
  PumpLater();
}

void TlsStream::SetReadSize(std::size_t most) {
  read_size_ = std::clamp<std::size_t>(most, 1, kMaxRead);
  lower_->SetReadSize(std::max(read_size_, kRecord));
}

void TlsStream::ControlReading() {
  const std::size_t pending = engine_->ciphertext_pending();
  // Who wants little at a time wants little to wait here, too.
  const std::size_t high_water = std::min(kCiphertextHighWater, 2 * std::max(read_size_, kRecord));
  if (!lower_reading_paused_ && pending > high_water) {
    lower_reading_paused_ = true;
    lower_->PauseReading();
  } else if (lower_reading_paused_ && pending <= std::min(kCiphertextLowWater, high_water)) {
    lower_reading_paused_ = false;
    lower_->ResumeReading();
  }
}

// --- writing

void TlsStream::Write(absl::Cord data) {
  if (closing_ || lost_ || write_eof_) return;
  plain_.Append(std::move(data));
  EncryptPending();
}

void TlsStream::EncryptPending() {
  if (open_ && !plain_.empty()) {
    const TlsEngine::Result result = engine_->Write(&plain_);
    if (result == TlsEngine::Result::kError) {
      FailWith(engine_->error());
      return;
    }
    FlushCiphertext();
  }
  if (write_eof_ && !sent_close_notify_ && plain_.empty()) {
    const TlsEngine::Result result = engine_->SendCloseNotify();
    if (result == TlsEngine::Result::kError) {
      FailWith(engine_->error());
      return;
    }
    sent_close_notify_ = result == TlsEngine::Result::kDone;
    FlushCiphertext();
  }
  ControlWriting();
}

void TlsStream::FlushCiphertext() {
  cipher_.Append(engine_->TakeCiphertext());
  if (cipher_.empty() || lower_writing_paused_) return;
  lower_->Write(std::exchange(cipher_, absl::Cord()));
  (void)bytes_flushed();  // lets the engine forget what has left
}

uint64_t TlsStream::bytes_flushed() const {
  const uint64_t lower_flushed = lower_->bytes_flushed();
  if (lower_flushed < base_) return lower_flushed;
  return base_ + engine_->PlaintextWithin(lower_flushed - base_);
}

void TlsStream::OnPauseWriting() { lower_writing_paused_ = true; }

void TlsStream::OnResumeWriting() {
  lower_writing_paused_ = false;
  unread_answers_ = 0;
  if (lost_ || aborted_) return;
  FlushCiphertext();
  ControlWriting();
  protocol_->OnFlushed();
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
  if (closing_ || write_eof_ || !CanWriteEof()) return;
  write_eof_ = true;
  EncryptPending();
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
  TlsEngine::Result result = TlsEngine::Result::kWantInput;
  if (!sent_close_notify_ || write_eof_) {
    // What came before our close_notify is of no use to anybody any more, but it stands before the
    // peer's. After WriteEof the peer may go on for as long as it likes.
    do {
      absl::Cord unread;
      result = Decrypt(&unread);
    } while (result == TlsEngine::Result::kDone);
    if (aborted_) return;
  }
  if (!sent_close_notify_ && result != TlsEngine::Result::kError) {
    if (!cipher_.empty()) return;  // goes on when the stream below takes more
    if (plain_.empty()) {
      sent_close_notify_ = engine_->SendCloseNotify() == TlsEngine::Result::kDone;
    }
    FlushCiphertext();
  }
  if (sent_close_notify_ && !write_eof_) {
    result = engine_->Shutdown();
    FlushCiphertext();
  }
  if (result == TlsEngine::Result::kError) {
    FailWith(engine_->error());
  } else if ((result != TlsEngine::Result::kWantInput || lower_eof_) && cipher_.empty()) {
    // The timer goes on: the stream below may have something left to flush.
    lower_->Close();
  }
}

void TlsStream::Abort(bool reset, absl::Status status) {
  if (lost_) return;
  closing_ = true;
  aborted_ = true;
  timer_.Cancel();
  if (failure_.ok()) failure_ = status;
  lower_->Abort(reset, std::move(status));
}

void TlsStream::FailWith(absl::Status status) {
  if (lost_ || aborted_) return;
  failure_ = status;
  closing_ = true;
  aborted_ = true;
  timer_.Cancel();
  FlushCiphertext();  // the alert that tells the peer why
  handshake_.WakeAll();
  lower_->Abort(/*reset=*/false, std::move(status));
}

void TlsStream::OnConnectionLost(const absl::Status& status) {
  // What came before the end is readable before it, however much the reader has already.
  if (open_ && !closing_ && !peer_closed_) {
    TlsEngine::Result result;
    do {
      absl::Cord plain;
      result = engine_->Read(&plain, kMaxRead);
      if (!plain.empty()) protocol_->OnData(std::move(plain));
    } while (result == TlsEngine::Result::kDone);
    if (result == TlsEngine::Result::kClosed) protocol_->OnEof();
  }
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
