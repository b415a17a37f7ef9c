// Server: a server that the broker owns, and its connections given to this process.
//
//   streams::Task<void> Echo(StreamReader reader, StreamWriter writer);
//   absl::StatusOr<Server> server = co_await broker.StartServer(Echo, "127.0.0.1", 0);
//   uint16_t port = server->sockets()[0].port();
//   co_await server->ServeForever();
//
// A handle: copies share the server. When the last copy goes the server closes, as the engine's;
// Detach leaves it, and whatever waits to be accepted, to its lease. After a broken link accepting
// goes on by itself.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/connection.h"
#include "client/cpp/options.h"
#include "streams/address.h"
#include "streams/task.h"

namespace sockbroker::client {

namespace internal {
class ServerCore;
}

// One task per connection. A function of the engine's StreamWriter will do as well.
using ClientConnected = std::function<streams::Task<void>(StreamReader, StreamWriter)>;

class Server {
 public:
  Server() = default;

  // The listening sockets' own addresses, at the broker's; empty once closed.
  std::vector<streams::SocketAddress> sockets() const;
  const std::string& handle() const;
  bool is_serving() const;
  bool is_closed() const;

  // As asyncio's and the engine's (streams/server.h).
  streams::Task<absl::Status> StartServing();
  streams::Task<absl::Status> ServeForever();
  void Close();
  streams::Task<absl::Status> WaitClosed();
  streams::Task<absl::StatusOr<std::size_t>> CloseClients();
  streams::Task<absl::StatusOr<std::size_t>> AbortClients();

  // Without a callback: waits for the next connection. While nobody waits, they stay at the broker.
  // A wait that is cancelled accepts nothing; a connection that came all the same is the next
  // call's.
  streams::Task<absl::StatusOr<Connection>> Accept();

  // Stops accepting here and leaves the server to its lease: AttachServer takes it up again.
  std::string Detach();

 private:
  friend class internal::ServerCore;
  Server(std::shared_ptr<void> owner, std::shared_ptr<internal::ServerCore> core)
      : owner_(std::move(owner)), core_(std::move(core)) {}
  std::shared_ptr<void> owner_;  // the last one closes
  std::shared_ptr<internal::ServerCore> core_;
};

}  // namespace sockbroker::client
