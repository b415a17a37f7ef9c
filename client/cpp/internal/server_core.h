// ServerCore: what the copies of a Server share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cpp/internal/channel.h"
#include "client/cpp/internal/link.h"
#include "client/cpp/server.h"
#include "session/client_session.h"
#include "streams/task.h"
#include "streams/wait_queue.h"

namespace sockbroker::client::internal {

class ServerCore final : public session::AcceptListener,
                         public LinkDependent,
                         public std::enable_shared_from_this<ServerCore> {
 public:
  ServerCore(std::shared_ptr<Link> link, ClientConnected client_connected, ServerOptions options);
  ~ServerCore() override;
  ServerCore(const ServerCore&) = delete;
  ServerCore& operator=(const ServerCore&) = delete;

  // What the broker said: begins to accept, if it serves.
  void Take(v1::Server server);
  static Server MakeHandle(std::shared_ptr<ServerCore> core);

  static streams::Task<absl::Status> StartServing(std::shared_ptr<ServerCore> core);
  static streams::Task<absl::Status> ServeForever(std::shared_ptr<ServerCore> core);
  static streams::Task<absl::Status> WaitClosed(std::shared_ptr<ServerCore> core);
  static streams::Task<absl::StatusOr<std::size_t>> CloseClients(std::shared_ptr<ServerCore> core);
  static streams::Task<absl::StatusOr<std::size_t>> AbortClients(std::shared_ptr<ServerCore> core);
  static streams::Task<absl::StatusOr<Connection>> Accept(std::shared_ptr<ServerCore> core);
  void Close();
  void Detach();

  std::vector<streams::SocketAddress> sockets() const;
  const std::string& handle() const { return server_.handle(); }
  bool serving() const { return server_.is_serving() && !closed_; }
  bool closed() const { return closed_; }

 private:
  session::ClientListener* OnAccepted(session::ClientChannel* channel,
                                      const v1::Connection& connection) override;
  void OnFailed(const google::rpc::Status& status) override;
  void OnLinkClosed(const absl::Status& reason) override { End(reason); }
  void Listen(uint32_t credits);
  void StopListening();
  // The server is no more, for us.
  void End(absl::Status why);
  bool eager() const { return client_connected_ != nullptr; }

  const std::shared_ptr<Link> link_;
  const ClientConnected client_connected_;
  const ServerOptions options_;
  v1::Server server_;
  uint32_t listening_ = 0;            // the session's id; 0: not
  std::shared_ptr<ServerCore> self_;  // while the session knows it
  bool closed_ = false;
  bool forever_ = false;
  absl::Status why_;
  std::deque<std::shared_ptr<Channel>> accepted_;  // claimed by nobody's Accept yet
  std::size_t waiting_ = 0;                        // Accept calls
  std::size_t asked_ = 0;                          // credits under way
  streams::WaitQueue acceptable_;
  streams::WaitQueue changed_;
};

}  // namespace sockbroker::client::internal
