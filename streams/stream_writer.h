// StreamWriter: asyncio.StreamWriter. The writing side of a connection, and its life.
//
//   writer.Write("PING\r\n");
//   if (absl::Status status = co_await writer.Drain(); !status.ok()) co_return status;
//   writer.Close();
//   co_await writer.WaitClosed();
//
// A handle: copies share the stream. When the last copy goes without Close, the connection is
// closed as by Close.
#pragma once

#include <sys/socket.h>

#include <any>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "streams/address.h"
#include "streams/task.h"
#include "streams/tls_context.h"
#include "streams/tls_info.h"
#include "streams/tls_stream.h"

namespace sockbroker::streams {

class EventLoop;

namespace internal {
class StreamCore;
struct WriterHandle;
}  // namespace internal

// get_extra_info("socket"): asyncio's TransportSocket, a socket that can be asked and tuned but not
// read or written.
class TransportSocket {
 public:
  explicit TransportSocket(std::weak_ptr<internal::StreamCore> core) : core_(std::move(core)) {}
  // -1 once the connection is gone.
  int fileno() const;
  SocketAddress getsockname() const;
  SocketAddress getpeername() const;
  absl::StatusOr<int> getsockopt(int level, int option) const;
  absl::Status setsockopt(int level, int option, int value) const;
  absl::Status shutdown(int how) const;

 private:
  std::weak_ptr<internal::StreamCore> core_;
};

struct StartTlsOptions {
  // A client: SNI, and the name that the certificate must have. None or empty: neither, whatever
  // the context says; it never defaults to the connect host. A server ignores it.
  std::optional<std::string> server_hostname;
  // What the peer sent and nobody has read yet. asyncio leaves it as plaintext (a client) or loses
  // it (a server).
  enum class Unread {
    kRefuse,        // kFailedPrecondition: it must not be read as if it had come protected
    kBelongsToTls,  // it is the begin of the peer's handshake
  };
  Unread unread = Unread::kRefuse;
  TlsStreamOptions stream;
};

class StreamWriter {
 public:
  // No stream; only assignment and destruction are allowed.
  StreamWriter() = default;

  // write(): sends what the kernel takes now and buffers the rest. Never waits; the network's
  // errors show in Drain, reads and WaitClosed. After WriteEof kFailedPrecondition; after the end
  // it is dropped, as in asyncio.
  absl::Status Write(absl::Cord data);
  absl::Status Write(absl::string_view data) { return Write(absl::Cord(data)); }
  absl::Status Write(const char* data) { return Write(absl::Cord(data)); }
  // writelines().
  absl::Status WriteLines(std::vector<absl::Cord> lines);
  // drain(): waits only if more than the high water mark is buffered, until the low mark is
  // reached. The connection's error, if it has one; kUnavailable "Connection lost" when it is gone.
  Task<absl::Status> Drain();
  // can_write_eof(), write_eof(): FIN behind what is buffered; reading goes on. kUnimplemented
  // where the stream can't.
  bool CanWriteEof() const;
  absl::Status WriteEof();

  // close(): stops reading at once, flushes, then closes; bounded by the close time-out, after
  // which the connection is reset. Idempotent. `discard_pending` drops what is buffered and ends
  // with FIN: asyncio's transport.abort().
  void Close(bool discard_pending = false);
  // Resets the connection (RST): drops what is buffered, and `WaitClosed` gives OK.
  void Abort();
  // The same, with a reason of the caller's that reads, Drain and WaitClosed then give.
  void Abort(absl::Status reason);
  // True from Close, Abort or a fatal error on.
  bool IsClosing() const;
  // wait_closed(): until the connection is gone; does not begin the closing. Its error, every time,
  // or OK. Waiters are independent of one another.
  Task<absl::Status> WaitClosed();

  // start_tls(): upgrades this connection in place, as the context's side. What was written before
  // goes out in front, in clear; what is written from the call on goes out protected. A read that
  // waits goes on and gets decrypted data. kFailedPrecondition: after WriteEof, at the peer's EOF,
  // with unread plaintext (see StartTlsOptions::unread), or while another upgrade runs; the
  // connection stays as it is. Once the handshake has begun, a failure (error.h: IsTlsError,
  // GetTlsVerifyFailure, phase "handshake") or a cancellation has closed the connection, and every
  // waiter gets the reason. TLS in TLS works.
  Task<absl::Status> StartTls(std::shared_ptr<const TlsContext> context,
                              StartTlsOptions options = {});

  // get_extra_info("peername" | "sockname" -> SocketAddress, "socket" -> TransportSocket; over TLS
  // also "ssl_object" -> TlsInfo, "cipher" -> tuple<string name, string version, int bits>,
  // "peercert" -> DER string). No value: unknown name, or nothing to tell.
  std::any GetExtraInfo(absl::string_view name) const;
  const SocketAddress& peername() const;
  const SocketAddress& sockname() const;
  TransportSocket socket() const;
  // get_extra_info("ssl_object"): null on a plain connection. It stays after the end.
  const TlsInfo* tls_info() const;
  // TLS ended without close_notify, so what was received may not be all (asyncio does not tell).
  bool tls_truncated() const;

  // transport.set_write_buffer_limits: only `low`: high = 4*low; only `high`: low = high/4;
  // neither: 65536 and 16384. kInvalidArgument unless high >= low >= 0.
  absl::Status SetWriteBufferLimits(std::optional<int64_t> high, std::optional<int64_t> low);
  std::size_t GetWriteBufferSize() const;

  // --- beyond asyncio
  // All bytes handed to the kernel so far.
  uint64_t bytes_flushed() const;
  // Whether the connection is gone (WaitClosed would not wait).
  bool IsClosed() const;
  // Calls `callback` once, from the loop, when the connection is gone (in a later turn, if it is).
  // A second call replaces the first; null: nobody is called.
  void NotifyClosed(std::function<void()> callback);
  // How long Close may flush. Default 30 s; InfiniteDuration: for ever, as asyncio.
  void set_close_timeout(absl::Duration timeout);
  EventLoop* loop() const;

 private:
  friend class internal::StreamCore;
  explicit StreamWriter(std::shared_ptr<internal::WriterHandle> handle);
  std::shared_ptr<internal::WriterHandle> handle_;
  internal::StreamCore* core_ = nullptr;
};

}  // namespace sockbroker::streams
