// OpenConnection and OpenUnixConnection: asyncio.open_connection and open_unix_connection.
//
//   absl::StatusOr<Connection> connection = co_await OpenConnection("example.org", 80);
//   if (!connection.ok()) co_return connection.status();
//   auto [reader, writer] = *std::move(connection);
//
// GetErrno, GetAttempts and GetResolverError say more about a failure. Cancelling ends every
// attempt and closes its socket.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "streams/address.h"
#include "streams/connection.h"
#include "streams/descriptor.h"
#include "streams/resolver.h"
#include "streams/socket_options.h"
#include "streams/task.h"

namespace sockbroker::streams {

struct OpenConnectionOptions {
  StreamOptions stream;
  int family = AF_UNSPEC;
  int flags = 0;  // AI_*
  // The address to connect from: a host (name allowed) and port, resolved like the target's. An
  // empty host is any address of the family that is dialled, for which asyncio has no word.
  std::optional<std::pair<std::string, Port>> local_addr;
  // RFC 8305: start the next attempt when one took so long. None: strictly one after another. Zero:
  // all at once.
  std::optional<absl::Duration> happy_eyeballs_delay;
  // RFC 8305 "First Address Family Count"; none: 1 with a delay, else the resolver's order; 0: the
  // resolver's order.
  std::optional<int> interleave;
  SocketOptions socket;
  // The handshake comes after the connect, within its own time-out.
  TlsOptions tls;
  // From the first look-up to the established connection: kDeadlineExceeded with phase "connect".
  // asyncio: none.
  absl::Duration connect_timeout = absl::InfiniteDuration();
  // Asked for each resolved address before it is dialled; an error counts as that attempt's
  // failure.
  std::function<absl::Status(const SocketAddress&)> check_address;
};

// `host`: none means loopback in both families; "" can't be resolved. `port`: a number or a
// service's name.
Task<absl::StatusOr<Connection>> OpenConnection(std::optional<std::string> host, Port port,
                                                OpenConnectionOptions options = {});
// `sock=`: adopts a stream socket (TCP or Unix), which is closed with the connection. It isn't
// checked for being connected: the first read says so. Only `stream`, `socket` and `tls` of the
// options count.
Task<absl::StatusOr<Connection>> OpenConnection(Descriptor sock,
                                                OpenConnectionOptions options = {});

struct OpenUnixConnectionOptions {
  StreamOptions stream;
  SocketOptions socket;
  TlsOptions tls;
  absl::Duration connect_timeout = absl::InfiniteDuration();
  std::function<absl::Status(const SocketAddress&)> check_address;
};

// `path`: a leading NUL means the abstract namespace.
Task<absl::StatusOr<Connection>> OpenUnixConnection(std::string path,
                                                    OpenUnixConnectionOptions options = {});
// `sock=`: must be a Unix stream socket.
Task<absl::StatusOr<Connection>> OpenUnixConnection(Descriptor sock,
                                                    OpenUnixConnectionOptions options = {});

}  // namespace sockbroker::streams
