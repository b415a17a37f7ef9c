// Connection: a reader and a writer on a connection that the broker owns: the engine's, with what a
// connection in another process can besides.
//
//   auto [reader, writer] = *co_await broker.OpenConnection("example.org", 80);
//   writer.Write("GET / HTTP/1.0\r\n\r\n");
//   absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();
//
// Broken links to the broker are not seen here: reads and writes wait, and go on at the exact byte.
// What ends a stream for good is told by status.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/options.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/error.pb.h"
#include "sockbroker/v1/tls.pb.h"
#include "streams/stream_reader.h"
#include "streams/stream_writer.h"
#include "streams/task.h"

namespace sockbroker::client {

using streams::StreamReader;

namespace internal {
class Channel;
}

// How a connection was left at the broker: what Attach needs.
struct Detached {
  std::string handle;
  // The next byte for whoever reads on, and where writing goes on.
  uint64_t read_offset = 0;
  uint64_t write_offset = 0;
};

// asyncio's StreamWriter, as the engine's, which it may be passed on as. As there, Close (or the
// last copy's end) closes the connection; Detach leaves it open at the broker.
class StreamWriter : public streams::StreamWriter {
 public:
  // No stream; only assignment and destruction are allowed.
  StreamWriter() = default;

  // drain(): waits while more than the high water mark is held back by the broker's window, or by a
  // link that is down. The error, if the peer takes no more.
  streams::Task<absl::Status> Drain();
  // Waits until the broker's kernel has everything that was written so far.
  streams::Task<absl::Status> Flush();
  // Waits until the broker has everything that was said so far, WriteEof and Close included: it
  // will do it, whatever becomes of this process.
  streams::Task<absl::Status> WaitTaken();
  // Waits until the broker, or its kernel, has more of what was written than it has now. The error
  // (or kUnavailable "Connection lost") once it never will.
  streams::Task<absl::Status> WaitProgress();
  // start_tls(), done by the broker at this exact byte: what was written before goes out in clear,
  // what is written from now on protected, over broken links too. Errors as the engine's; the
  // engine's own, which would do TLS here and leave the broker none of the plaintext, is reached
  // through the base class.
  streams::Task<absl::Status> StartTls(v1::TlsOptions options, StartTlsOptions how = {});

  // Leaves the connection to its lease, behind all that was written; bytes that nobody has read yet
  // stay there. This stream has ended: see StreamEnd::kDetached.
  streams::Task<absl::StatusOr<Detached>> Detach();
  // With acknowledge_explicitly: everything read below `offset` is safe, the broker may forget it.
  void Acknowledge(uint64_t offset);

  // --- what is known of it
  // Names it, for Attach and the unary calls.
  const std::string& handle() const;
  uint64_t epoch() const;
  // What the broker said of it when it was bound first, but for its options (see GetConnection).
  const v1::Connection& info() const;
  // The offset of the next byte that the reader gives; one past the last that was written; of that,
  // what the broker has, and what its kernel has.
  uint64_t read_offset() const;
  uint64_t write_offset() const;
  uint64_t taken_offset() const;
  uint64_t flushed_offset() const;
  // Why the broker closed it; REASON_UNSPECIFIED while it is open, or when the end is no such one
  // (see StreamEnd).
  v1::Reason close_reason() const;
  // Whether it is bound at this moment: not while the link is down.
  bool bound() const;

 private:
  friend class Broker;
  friend class Server;
  friend struct ConnectionMaker;
  StreamWriter(streams::StreamWriter writer, StreamReader reader,
               std::shared_ptr<internal::Channel> channel);

  StreamReader reader_;
  std::shared_ptr<internal::Channel> channel_;
};

struct Connection {
  StreamReader reader;
  StreamWriter writer;
};

}  // namespace sockbroker::client
