// StartServer, StartUnixServer and Server: asyncio.start_server, start_unix_server and Server.
//
//   Task<void> Echo(StreamReader reader, StreamWriter writer) {
//     while (true) {
//       absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
//       if (!data.ok() || data->empty()) break;
//       writer.Write(*std::move(data));
//       if (!(co_await writer.Drain()).ok()) break;
//     }
//     writer.Close();
//   }
//   absl::StatusOr<Server> server = co_await StartServer(Echo, "127.0.0.1", 0);
//   uint16_t port = server->sockets()[0].port();
//   co_await server->ServeForever();
//
// Server is a handle: copies share the server. When the last copy goes the server closes;
// connections live on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "streams/address.h"
#include "streams/connection.h"
#include "streams/descriptor.h"
#include "streams/resolver.h"
#include "streams/socket_options.h"
#include "streams/task.h"

namespace sockbroker::streams {

namespace internal {
class ServerCore;
}

// client_connected_cb: one task per connection. What it throws goes to the loop's exception handler
// and the connection is closed. It should Close its writer; dropping it has the same effect.
using ClientConnected = std::function<Task<void>(StreamReader, StreamWriter)>;

// Who takes connections out of the kernel's backlog.
enum class AcceptMode {
  kEager,     // asyncio: as they come, each given to the callback
  kOnDemand,  // only when somebody awaits Server::Accept; no callback
};

// What both kinds of server share.
struct ServerOptions {
  StreamOptions stream;  // of accepted connections
  SocketOptions
      socket;  // of the listener, where it applies before accept, and of accepted connections
  // The callback runs, and Accept returns, after the handshake; one that fails just closes its
  // connection.
  TlsOptions tls;
  int backlog = 100;
  bool start_serving = true;
  AcceptMode accept = AcceptMode::kEager;
};

struct StartServerOptions : ServerOptions {
  int family = AF_UNSPEC;
  int flags = 1;  // AI_PASSIVE
  bool reuse_address = true;
  bool reuse_port = false;
  bool keep_alive = false;
};

struct StartUnixServerOptions : ServerOptions {
  // Close removes the socket's file, if it still is this server's (by inode).
  bool cleanup_socket = true;
  // The file's permission bits; none: the umask decides.
  std::optional<int> mode;
};

class Server {
 public:
  Server() = default;

  // The listening sockets' own addresses; empty once closed. Order as bound.
  std::vector<SocketAddress> sockets() const;
  bool is_serving() const;
  bool is_closed() const;

  // start_serving(): listens and accepts. Idempotent while open; kFailedPrecondition once closed.
  Task<absl::Status> StartServing();
  // serve_forever(): serves until Close (kCancelled) or cancelled: then it closes, waits until
  // every connection is gone, and gives the reason. A second concurrent call, or one on a closed
  // server, is kFailedPrecondition.
  Task<absl::Status> ServeForever();
  // close(): stops listening at once; connections that the kernel holds for it are reset; those
  // accepted live on. Waiting Accepts end with kFailedPrecondition. Idempotent.
  void Close();
  // wait_closed(): until it is closed and every accepted connection is gone.
  Task<absl::Status> WaitClosed();
  // close_clients(): closes each accepted connection gracefully. abort_clients(): resets each. Both
  // give how many.
  std::size_t CloseClients();
  std::size_t AbortClients();

  // kOnDemand: waits for the next connection; while nobody waits, they stay in the kernel's
  // backlog. Several may wait: first come, first served. kFailedPrecondition when not serving or
  // closed. Cancelling accepts nothing.
  Task<absl::StatusOr<Connection>> Accept();
  // Accepted connections that still exist, and all that ever were accepted.
  std::size_t active_connections() const;
  uint64_t accepted_total() const;

 private:
  friend class internal::ServerCore;
  explicit Server(std::shared_ptr<void> owner, std::shared_ptr<internal::ServerCore> core)
      : owner_(std::move(owner)), core_(std::move(core)) {}
  std::shared_ptr<void> owner_;  // the last one closes
  std::shared_ptr<internal::ServerCore> core_;
};

// `hosts`: names or addresses; none or "" binds every interface, one socket per family. `port` 0:
// each socket gets its own. kUnavailable with errno (GetAttempts: each address) when something
// can't be bound; nothing stays open then. `client_connected` may be null: connections are accepted
// and held.
Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected,
                                         std::vector<std::string> hosts, Port port,
                                         StartServerOptions options = {});
Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected, std::string host,
                                         Port port, StartServerOptions options = {});
// `sock=`: listening (or bound) stream sockets, adopted.
Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected,
                                         std::vector<Descriptor> socks,
                                         StartServerOptions options = {});

// A stale socket file at `path` (nobody answers) is replaced; a live one, or anything else, is
// EADDRINUSE.
Task<absl::StatusOr<Server>> StartUnixServer(ClientConnected client_connected, std::string path,
                                             StartUnixServerOptions options = {});
Task<absl::StatusOr<Server>> StartUnixServer(ClientConnected client_connected, Descriptor sock,
                                             StartUnixServerOptions options = {});

}  // namespace sockbroker::streams
