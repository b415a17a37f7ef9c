// TlsStream: TLS over any ByteStream, TLS itself included. asyncio's SSLProtocol: a protocol to the
// stream below, a stream to the protocol above.
//
//   auto stream = TlsStream::Create(loop, socket_stream, *std::move(engine), {});
//   auto connection = MakeConnection(loop, stream);     // starts it, and so the handshake
//   absl::Status status = co_await TlsStream::WaitHandshake(stream);
//
// OpenConnection, Server and StreamWriter::StartTls make these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "streams/byte_stream.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/tls_engine.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams {

struct TlsStreamOptions {
  // asyncio's ssl_handshake_timeout and ssl_shutdown_timeout. Positive; InfiniteDuration: none.
  absl::Duration handshake_timeout = absl::Seconds(60);
  absl::Duration shutdown_timeout = absl::Seconds(30);
  // TLS 1.3: the peer's close_notify ends its direction only, and WriteEof ends ours. asyncio: it
  // ends both.
  bool allow_half_close = false;
  // An end without close_notify is an error (TLS_TRUNCATED) rather than EOF. asyncio: EOF.
  bool require_close_notify = false;
};

class TlsStream final : public ByteStream,
                        public StreamProtocol,
                        public std::enable_shared_from_this<TlsStream> {
 public:
  // asyncio's water marks: of what is to be sent, and of ciphertext that waits for its reader.
  static constexpr std::size_t kHighWater = 512 * 1024;
  static constexpr std::size_t kCiphertextHighWater = 256 * 1024;
  static constexpr std::size_t kCiphertextLowWater = 64 * 1024;
  // What we answer to the peer's TLS (key updates, alerts) while it takes nothing: more is an
  // error.
  static constexpr std::size_t kMaxUnreadAnswers = 64 * 1024;

  static std::shared_ptr<TlsStream> Create(EventLoop* loop, std::shared_ptr<ByteStream> lower,
                                           std::unique_ptr<TlsEngine> engine,
                                           TlsStreamOptions options);

  // A stream that was plain until now: its protocol becomes ours, and `received`, what the peer has
  // sent beyond the point of the upgrade, goes to the handshake first. What is buffered below is
  // sent in front of TLS.
  // `writing_paused`: the stream below has told its protocol to pause writing.
  void StartUpgrade(std::shared_ptr<StreamProtocol> protocol, absl::Cord received,
                    bool writing_paused);
  // Until the handshake is done, or has failed for the reason given. A failed handshake has closed
  // the stream, and so has the cancellation of this wait: others see ECONNABORTED then.
  static Task<absl::Status> WaitHandshake(std::shared_ptr<TlsStream> stream);
  const TlsInfo* tls_info() const override { return open_ ? &engine_->info() : nullptr; }
  // The peer ended without close_notify.
  bool truncated() const override { return truncated_; }

  // ByteStream.
  void Start(std::shared_ptr<StreamProtocol> protocol) override;
  void SetProtocol(std::shared_ptr<StreamProtocol> protocol) override;
  void PauseReading() override;
  void ResumeReading() override;
  void SetReadSize(std::size_t most) override;
  void Write(absl::Cord data) override;
  std::size_t write_buffer_size() const override { return plain_.size() + cipher_.size(); }
  // Whole records count: what was written in one that has not left in full has not left.
  uint64_t bytes_flushed() const override;
  void SetWriteBufferLimits(std::size_t high, std::size_t low) override;
  bool CanWriteEof() const override;
  void WriteEof() override;
  void Close() override;
  void Abort(bool reset, absl::Status status) override;
  bool is_closing() const override { return closing_ || lower_->is_closing(); }
  int fd() const override { return lower_->fd(); }
  const SocketAddress& peername() const override { return lower_->peername(); }
  const SocketAddress& sockname() const override { return lower_->sockname(); }

  // StreamProtocol, told by the stream below.
  void OnData(absl::Cord data) override;
  bool OnEof() override;
  void OnPauseWriting() override;
  void OnResumeWriting() override;
  void OnFlushed() override { protocol_->OnFlushed(); }
  void OnConnectionLost(const absl::Status& status) override;

 private:
  TlsStream(EventLoop* loop, std::shared_ptr<ByteStream> lower, std::unique_ptr<TlsEngine> engine,
            TlsStreamOptions options);

  void BeginHandshake();
  // Moves on whatever can move: handshake, decryption, shutdown.
  void Pump();
  void PumpLater();
  void ContinueHandshake();
  // Decrypts, and sends what OpenSSL answers.
  TlsEngine::Result Decrypt(absl::Cord* plain);
  void ReadPlain();
  void ContinueShutdown();
  // Encrypts what was written, once there are keys, and ends it after WriteEof.
  void EncryptPending();
  // Gives the stream below what it may have; the rest waits until it resumes.
  void FlushCiphertext();
  void ControlWriting();
  void ControlReading();
  void PeerClosed();
  void BeginShutdown();
  void FailWith(absl::Status status);

  EventLoop* const loop_;
  const std::shared_ptr<ByteStream> lower_;
  const std::unique_ptr<TlsEngine> engine_;
  const TlsStreamOptions options_;
  std::shared_ptr<StreamProtocol> protocol_;

  bool open_ = false;     // the handshake is done
  bool closing_ = false;  // Close was called, or the peer closed, or an error came
  bool shutting_down_ = false;
  bool aborted_ = false;  // the end is on its way up
  bool lost_ = false;
  absl::Status failure_;  // what ended the stream, if an error did
  WaitQueue handshake_;
  Timer timer_;  // of the handshake, then of the shutdown

  std::size_t read_size_;
  bool reading_paused_ = false;  // by the protocol above
  bool lower_reading_paused_ = false;
  bool lower_eof_ = false;
  bool peer_closed_ = false;
  bool truncated_ = false;
  bool pump_scheduled_ = false;

  absl::Cord plain_;   // written, and not yet encrypted: before the handshake was done
  absl::Cord cipher_;  // encrypted, while the stream below wants no more
  std::size_t unread_answers_ = 0;
  bool lower_writing_paused_ = false;
  bool writing_paused_ = false;
  bool write_eof_ = false;
  bool sent_close_notify_ = false;
  std::size_t high_water_ = kHighWater;
  std::size_t low_water_ = kHighWater / 4;

  const uint64_t base_;  // offsets below are the plain stream's before TLS
};

}  // namespace sockbroker::streams
