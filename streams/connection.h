// Connection: the pair that asyncio.open_connection returns, and what every way to get one shares.
//
//   auto [reader, writer] = *std::move(connection);
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "streams/byte_stream.h"
#include "streams/stream_reader.h"
#include "streams/stream_writer.h"
#include "streams/tls_context.h"

namespace sockbroker::streams {

struct Connection {
  StreamReader reader;
  StreamWriter writer;
};

// asyncio's `ssl` and what goes with it. Without a context the rest must be left alone
// (kInvalidArgument).
struct TlsOptions {
  std::shared_ptr<const TlsContext> context;
  // A client's only. None: the host that is connected to, an IP address included; where there is no
  // host (a Unix path, an adopted socket), it must be given. Empty: no SNI and no check of the
  // name; the chain is still verified.
  std::optional<std::string> server_hostname;
  std::optional<absl::Duration> handshake_timeout;  // default 60 s; must be positive
  std::optional<absl::Duration> shutdown_timeout;   // default 30 s; must be positive
  bool allow_half_close = false;                    // see TlsStreamOptions
  bool require_close_notify = false;
};

struct StreamOptions {
  // asyncio's `limit`: how far ReadUntil looks; the socket isn't read while more than twice as much
  // is buffered.
  std::size_t limit = kDefaultLimit;
  // How long Close may flush before the connection is reset. asyncio: InfiniteDuration.
  absl::Duration close_timeout = absl::Seconds(30);
};

// Puts a reader and writer on any byte stream, and starts it. kInvalidArgument for a limit of 0.
absl::StatusOr<Connection> MakeConnection(EventLoop* loop, std::shared_ptr<ByteStream> stream,
                                          StreamOptions options = {});

}  // namespace sockbroker::streams
