// MemoryStream: two ByteStreams joined in memory, as a TCP connection joins two sockets: each
// direction has a bounded "kernel" buffer between the ends, so that back-pressure, EOF and resets
// are seen in virtual time.
//
//   auto [client, server] = MakeMemoryStreams(loop, {.kernel_buffer = 1000});
//   client->Write("hello");
//   EXPECT_EQ(server->Receive(100), "hello");       // played by hand; or server->Start(protocol)
//
// What it keeps of TCP: a close with unread data resets the peer; data that came before a reset is
// read first; the first write to a peer that has closed succeeds and is answered with a reset. What
// it keeps of asyncio's transport: written at once while nothing is buffered, paused above the high
// mark, resumed at or below the low one, and the end is told in a later turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "streams/address.h"
#include "streams/byte_stream.h"
#include "streams/event_loop.h"

namespace sockbroker::streams {

struct MemoryStreamOptions {
  // How many bytes a direction holds between the two ends.
  std::size_t kernel_buffer = 64 * 1024;
  // The largest single delivery, as with a socket.
  std::size_t read_size = EventLoop::kScratchSize;
};

class MemoryStream final : public ByteStream,
                           public std::enable_shared_from_this<MemoryStream>,
                           private EventLoop::ShutdownListener {
 public:
  ~MemoryStream() override;

  void Start(std::shared_ptr<StreamProtocol> protocol) override;
  void SetProtocol(std::shared_ptr<StreamProtocol> protocol) override {
    protocol_ = std::move(protocol);
  }
  void PauseReading() override;
  void ResumeReading() override;
  void Write(absl::Cord data) override;
  std::size_t write_buffer_size() const override { return write_buffer_.size(); }
  uint64_t bytes_flushed() const override { return bytes_flushed_; }
  void SetWriteBufferLimits(std::size_t high, std::size_t low) override;
  bool CanWriteEof() const override { return true; }
  void WriteEof() override;
  void Close() override;
  void Abort(bool reset, absl::Status status) override;
  bool is_closing() const override { return closing_; }
  const SocketAddress& peername() const override { return peername_; }
  const SocketAddress& sockname() const override { return sockname_; }

  // --- for tests
  void Write(absl::string_view data) { Write(absl::Cord(data)); }
  void Write(const char* data) { Write(absl::Cord(data)); }
  // Plays an application that calls recv() by hand, on an end that was not started: at most `n`
  // bytes.
  absl::Cord Receive(std::size_t n);
  // In the kernel's buffer for this end: received, but not yet delivered.
  std::size_t readable() const;
  // What recv() would say behind the readable bytes: the peer has sent FIN; it has reset.
  bool peer_sent_eof() const;
  bool peer_sent_reset() const;
  bool reading_paused() const { return reading_paused_; }
  // How often this end's reading was paused so far.
  int times_paused() const { return times_paused_; }

 private:
  struct Pipe;
  friend std::pair<std::shared_ptr<MemoryStream>, std::shared_ptr<MemoryStream>> MakeMemoryStreams(
      EventLoop* loop, MemoryStreamOptions options);

  MemoryStream(EventLoop* loop, MemoryStreamOptions options, std::shared_ptr<Pipe> incoming,
               std::shared_ptr<Pipe> outgoing);
  void OnLoopShutdown() override;

  // Has Turn run in the loop's next iteration.
  void Schedule();
  // What a poll round does for a socket: writes, then reads, a bounded share of each.
  void Turn();
  // send(): moves what fits into the kernel's buffer.
  void Flush();
  void MaybePause();
  // What close() does to a descriptor.
  void CloseDescriptor(bool reset);
  // A fatal error of a call to the kernel.
  void Fail(int os_errno, absl::string_view call);
  void Lose(absl::Status status);

  EventLoop* const loop_;
  const MemoryStreamOptions options_;
  const std::shared_ptr<Pipe> incoming_;
  const std::shared_ptr<Pipe> outgoing_;
  const SocketAddress peername_;
  const SocketAddress sockname_;
  // Both held from Start until the protocol was told of the end.
  std::shared_ptr<StreamProtocol> protocol_;
  std::shared_ptr<MemoryStream> self_;

  absl::Cord write_buffer_;
  uint64_t bytes_flushed_ = 0;
  std::size_t high_ = kDefaultHighWater;
  std::size_t low_ = kDefaultHighWater / 4;
  bool writing_paused_ = false;
  bool write_eof_ = false;
  bool scheduled_ = false;
  bool reading_paused_ = false;
  int times_paused_ = 0;
  bool eof_told_ = false;
  absl::Cord unread_;  // after a failure: still to be told
  bool closing_ = false;
  bool descriptor_open_ = true;
  bool lost_ = false;  // the end is on its way to the protocol, or was told
};

// The ends of a new connection on `loop`. Either may be started, or played by hand.
std::pair<std::shared_ptr<MemoryStream>, std::shared_ptr<MemoryStream>> MakeMemoryStreams(
    EventLoop* loop, MemoryStreamOptions options = {});

}  // namespace sockbroker::streams
