// ServerCore: what the copies of a Server share: its listeners, its connections, who waits for
// them.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "streams/descriptor.h"
#include "streams/event_loop.h"
#include "streams/internal/stream_core.h"
#include "streams/server.h"
#include "streams/tls_stream.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams::internal {

class ServerCore final : public std::enable_shared_from_this<ServerCore>,
                         private EventLoop::ShutdownListener {
 public:
  ServerCore(EventLoop* loop, ClientConnected client_connected, const ServerOptions& options);
  ~ServerCore();
  ServerCore(const ServerCore&) = delete;
  ServerCore& operator=(const ServerCore&) = delete;

  // A bound socket; not listening yet. `unlink_path`: the socket's file, removed at Close if it
  // still is this one's.
  void AddListener(Descriptor socket, std::optional<std::string> unlink_path);
  static Server MakeHandle(std::shared_ptr<ServerCore> core);

  static Task<absl::Status> StartServing(std::shared_ptr<ServerCore> core);
  static Task<absl::Status> ServeForever(std::shared_ptr<ServerCore> core);
  static Task<absl::Status> WaitClosed(std::shared_ptr<ServerCore> core);
  static Task<absl::StatusOr<Connection>> Accept(std::shared_ptr<ServerCore> core);
  void Close();
  std::size_t CloseClients();
  std::size_t AbortClients();

  std::vector<SocketAddress> sockets() const;
  bool serving() const { return serving_; }
  bool closed() const { return closed_; }
  std::size_t active() const { return active_.size(); }
  uint64_t accepted_total() const { return accepted_total_; }

 private:
  class Listener;
  struct Accepted {
    Connection connection;
    std::shared_ptr<TlsStream> tls;  // null on a plain server; else its handshake is under way
  };

  absl::Status Listen();

  // A connection from `listener`, if the kernel has one. kUnavailable with EAGAIN when it has none.
  absl::StatusOr<Accepted> AcceptFrom(Listener* listener);
  absl::StatusOr<Accepted> AcceptFromAny();
  void AcceptEagerly(Listener* listener);
  void Serve(Connection connection);
  static Task<void> ServeAfterHandshake(std::shared_ptr<ServerCore> core, Accepted accepted);
  static Task<void> EstablishForAccept(std::shared_ptr<ServerCore> core, Accepted accepted);
  // Takes connections out of the backlog for their handshakes, of which a bounded number runs at a
  // time.
  absl::Status BeginHandshakes();
  static Task<void> RunCallback(std::shared_ptr<ServerCore> core, Connection connection);
  std::vector<std::shared_ptr<StreamCore>> ActiveCores() const;
  void OnLoopShutdown() override;

  EventLoop* const loop_;
  const ClientConnected client_connected_;
  const ServerOptions options_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  bool serving_ = false;
  bool closed_ = false;
  bool forever_ = false;
  uint64_t accepted_total_ = 0;

  absl::flat_hash_map<StreamCore*, std::weak_ptr<StreamCore>> active_;
  std::vector<StreamWriter> held_;      // of a server without a callback
  WaitQueue acceptable_;                // Accept calls
  std::size_t handshaking_ = 0;         // taken for Accept, not yet established
  std::deque<Connection> established_;  // by TLS, for the next Accept calls
  WaitQueue changed_;                   // closed, or a connection gone
};

}  // namespace sockbroker::streams::internal
