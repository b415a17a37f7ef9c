// SocketStream: the ByteStream over a connected stream socket, TCP or Unix. asyncio's
// _SelectorSocketTransport.
//
//   auto stream = SocketStream::Create(loop, std::move(descriptor));
//   absl::StatusOr<Connection> connection = MakeConnection(loop, *stream);
//
// OpenConnection and Server make these; use it directly to give a reader and writer to a socket of
// your own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "streams/byte_stream.h"
#include "streams/descriptor.h"
#include "streams/event_loop.h"

namespace sockbroker::streams {

class SocketStream final : public ByteStream,
                           private internal::PollHandler,
                           private EventLoop::ShutdownListener,
                           public std::enable_shared_from_this<SocketStream> {
 public:
  // Takes the socket, makes it non-blocking and, if it is TCP, sets TCP_NODELAY. It is closed with
  // the stream.
  static absl::StatusOr<std::shared_ptr<SocketStream>> Create(EventLoop* loop, Descriptor socket);
  ~SocketStream() override;

  void Start(std::shared_ptr<StreamProtocol> protocol) override;
  void SetProtocol(std::shared_ptr<StreamProtocol> protocol) override {
    protocol_ = std::move(protocol);
  }
  void PauseReading() override;
  void ResumeReading() override;
  void SetReadSize(std::size_t most) override;
  void Write(absl::Cord data) override;
  std::size_t write_buffer_size() const override { return unsent_.size(); }
  uint64_t bytes_flushed() const override { return bytes_flushed_; }
  void SetWriteBufferLimits(std::size_t high, std::size_t low) override;
  bool CanWriteEof() const override { return true; }
  void WriteEof() override;
  void Close() override;
  void Abort(bool reset, absl::Status status) override;
  bool is_closing() const override { return closing_; }
  int fd() const override { return socket_.get(); }
  const SocketAddress& peername() const override { return peername_; }
  const SocketAddress& sockname() const override { return sockname_; }

 private:
  SocketStream(EventLoop* loop, Descriptor socket);

  void OnPollEvents(uint32_t events) override;
  void OnLoopShutdown() override;

  bool wants_data() const { return reading_ && !paused_; }
  // One turn of reading: at most kMaxRead bytes, then the loop's other work.
  void ReadSome();
  void ReadAgainLater();
  // Reads what the kernel still holds, once the socket is known to be dead.
  void ReadRest();
  void FlushSome();
  // Gives the kernel what it takes of `data`; false after a fatal error.
  bool Send(absl::Cord* data);
  void FailWith(absl::Status status);
  void LoseLater(absl::Status status);
  void Lose(const absl::Status& status);

  EventLoop* const loop_;
  Descriptor socket_;
  internal::PollRegistration* registration_ = nullptr;
  SocketAddress peername_;
  SocketAddress sockname_;
  // Both held from Start until the connection is lost.
  std::shared_ptr<StreamProtocol> protocol_;
  std::shared_ptr<SocketStream> self_;

  // Edge-triggered: what the kernel last said. `hung_up_`: there is an EOF or an error behind the
  // data, of which no further edge will tell. `urgent_`: there was urgent data at some time.
  bool readable_ = false;
  bool writable_ = true;
  bool hung_up_ = false;
  bool urgent_ = false;

  bool reading_ = false;  // started, no EOF yet, not closing
  bool paused_ = false;
  bool read_scheduled_ = false;
  bool read_rest_ = false;  // a send failed: what was received is still to be read
  std::size_t read_size_;
  bool bulk_ = false;  // the last read was large: read into big chunks, without a copy

  absl::Cord unsent_;
  uint64_t bytes_flushed_ = 0;
  std::size_t high_water_ = kDefaultHighWater;
  std::size_t low_water_ = kDefaultHighWater / 4;
  bool writing_paused_ = false;
  bool write_eof_ = false;

  bool closing_ = false;
  bool losing_ = false;  // the end is scheduled: what is written now is dropped
  bool reset_ = false;
};

}  // namespace sockbroker::streams
