// ByteStream and StreamProtocol: asyncio's Transport and Protocol. A ByteStream moves bytes (over a
// socket, TLS, or memory); a StreamProtocol is told what happened. StreamReader and StreamWriter
// are the comfortable side of one protocol; TLS is a protocol on the stream below and a stream to
// the protocol above.
//
// All calls are on the loop's thread. A stream never calls its protocol from inside Write, Close or
// Abort, only from the loop; but for OnPauseWriting, which must be known when Write returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "streams/address.h"

namespace sockbroker::streams {

class EventLoop;
struct TlsInfo;

class StreamProtocol {
 public:
  virtual ~StreamProtocol() = default;
  // data_received: never empty.
  virtual void OnData(absl::Cord data) = 0;
  // eof_received: the peer will send no more. True keeps the stream open for writing; false closes
  // it.
  virtual bool OnEof() = 0;
  // pause_writing, resume_writing: the write buffer went above the high mark; back to the low mark.
  virtual void OnPauseWriting() = 0;
  virtual void OnResumeWriting() = 0;
  // More of what was buffered has left (see ByteStream::bytes_flushed). Never from inside Write.
  virtual void OnFlushed() {}
  // connection_lost: the last call. OK after a clean end (Close, Abort, EOF on both sides), else
  // why.
  virtual void OnConnectionLost(const absl::Status& status) = 0;
};

// What asyncio keeps as an exact number and we do too.
inline constexpr std::size_t kDefaultHighWater = 64 * 1024;
inline constexpr std::size_t kDefaultLimit = 64 * 1024;

class ByteStream {
 public:
  virtual ~ByteStream() = default;

  // Begins to deliver to `protocol`, in a later turn of the loop. Once. Both keep each other alive
  // until OnConnectionLost has been called.
  virtual void Start(std::shared_ptr<StreamProtocol> protocol) = 0;

  // Who is told from now on: how TLS puts itself between. After Start.
  virtual void SetProtocol(std::shared_ptr<StreamProtocol> protocol) = 0;

  // While paused, neither data nor EOF nor a reset is noticed. Idempotent.
  virtual void PauseReading() = 0;
  virtual void ResumeReading() = 0;
  // The application has taken so many bytes of what OnData gave. For streams whose sender is paced
  // by it, and forgets only what was taken; a socket has its kernel for that.
  virtual void OnConsumed(std::size_t /*bytes*/) {}
  // A read waits for more though so many bytes are buffered: such a stream must let more come.
  virtual void OnReadBlocked(std::size_t /*buffered*/) {}

  // At most so many bytes come with one OnData, from the next read on. At least 1. Until it is
  // called: asyncio's 256 KiB.
  virtual void SetReadSize(std::size_t /*most*/) {}

  // Never waits and never fails: errors come in OnConnectionLost. Ignored once lost.
  virtual void Write(absl::Cord data) = 0;
  // Not yet handed to the layer below, and all that ever was, in bytes.
  virtual std::size_t write_buffer_size() const = 0;
  virtual uint64_t bytes_flushed() const = 0;
  // Both must be given: high >= low.
  virtual void SetWriteBufferLimits(std::size_t high, std::size_t low) = 0;
  // Ends the sending direction behind what is buffered.
  virtual bool CanWriteEof() const = 0;
  virtual void WriteEof() = 0;

  // Stops reading, flushes, closes. Idempotent.
  virtual void Close() = 0;
  // Drops what is buffered. `reset`: the peer sees a reset (RST); else an end (FIN) behind what the
  // kernel had already: what asyncio's abort() does. OnConnectionLost then gets `status`.
  virtual void Abort(bool reset, absl::Status status) = 0;
  virtual bool is_closing() const = 0;

  // The socket below, -1 if there is none (any more).
  virtual int fd() const { return -1; }
  // What TLS agreed on; null on a plain stream.
  virtual const TlsInfo* tls_info() const { return nullptr; }
  // TLS ended without close_notify: what was received may not be all.
  virtual bool truncated() const { return false; }
  // They stay after the end.
  virtual const SocketAddress& peername() const = 0;
  virtual const SocketAddress& sockname() const = 0;
};

}  // namespace sockbroker::streams
