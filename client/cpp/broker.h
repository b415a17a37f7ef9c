// Broker: a broker, and what can be had of it: connections and servers with asyncio's vocabulary,
// over one link that is made again when it breaks.
//
//   streams::Task<absl::Status> Main() {
//     auto broker = co_await Broker::Connect("unix:/run/sockbroker/sockbroker.sock");
//     if (!broker.ok()) co_return broker.status();
//     auto connection = co_await broker->OpenConnection("127.0.0.1", 6379);
//     if (!connection.ok()) co_return connection.status();
//     auto [reader, writer] = *std::move(connection);
//     writer.Write("PING\r\n");
//     absl::StatusOr<absl::Cord> pong = co_await reader.ReadLine();
//     ...
//
// For coroutines of one event loop; blocking.h is the same for plain threads. A handle: copies
// share the link, which lives as long as any of them, or a connection or server of theirs. Round
// trips are shortest on a loop that allows other threads to run it: EventLoop::EnableDispatch.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/connection.h"
#include "client/cpp/options.h"
#include "client/cpp/server.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"
#include "streams/resolver.h"
#include "streams/task.h"

namespace sockbroker::client {

class Broker;

namespace internal {
class Link;
Broker MakeBroker(std::shared_ptr<Link> link);
}  // namespace internal

class Broker {
 public:
  // No broker; only assignment and destruction are allowed.
  Broker() = default;

  // `address`: "unix:PATH", an absolute path, "HOST:PORT", "[IPV6]:PORT"; "": $SOCKBROKER_ADDRESS,
  // else where sockbrokerd listens by default. On the running loop. kUnavailable: nobody there.
  static streams::Task<absl::StatusOr<Broker>> Connect(std::string address,
                                                       BrokerOptions options = {});

  // asyncio.open_connection, by the broker. None as host: loopback. Errors say why the broker could
  // not connect: GetReason, streams::GetErrno, streams::GetAttempts. Cancelling ends the attempt.
  streams::Task<absl::StatusOr<Connection>> OpenConnection(std::optional<std::string> host,
                                                           streams::Port port,
                                                           OpenConnectionOptions options = {});
  streams::Task<absl::StatusOr<Connection>> OpenUnixConnection(
      std::string path, OpenUnixConnectionOptions options = {});
  // With every field of the contract. `options.broker` is left out; a request_id is made if there
  // is none.
  streams::Task<absl::StatusOr<Connection>> Open(v1::OpenConnectionRequest request,
                                                 ConnectionOptions options = {});
  streams::Task<absl::StatusOr<Connection>> Open(v1::OpenUnixConnectionRequest request,
                                                 ConnectionOptions options = {});

  // An existing connection of ours: left by Detach, by a client that is gone, or with `steal` by
  // one that is not. Writing goes on at writer.write_offset(). kFailedPrecondition (BOUND) without
  // steal while another has it; kNotFound when it is no more, or never was.
  streams::Task<absl::StatusOr<Connection>> Attach(std::string handle, AttachOptions options = {});

  // asyncio.start_server, by the broker. `hosts`: none or "" binds every interface. The callback
  // runs here, one task per connection; null: Accept gives them.
  streams::Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected,
                                                    std::vector<std::string> hosts,
                                                    streams::Port port,
                                                    StartServerOptions options = {});
  streams::Task<absl::StatusOr<Server>> StartServer(ClientConnected client_connected,
                                                    std::string host, streams::Port port,
                                                    StartServerOptions options = {});
  streams::Task<absl::StatusOr<Server>> StartUnixServer(ClientConnected client_connected,
                                                        std::string path,
                                                        StartUnixServerOptions options = {});
  // With every field of the contract; `options.broker` and what the request says itself are left
  // out.
  streams::Task<absl::StatusOr<Server>> Start(ClientConnected client_connected,
                                              v1::StartServerRequest request,
                                              ServerOptions options = {});
  streams::Task<absl::StatusOr<Server>> Start(ClientConnected client_connected,
                                              v1::StartUnixServerRequest request,
                                              ServerOptions options = {});
  // A server that exists already: accepts from it.
  streams::Task<absl::StatusOr<Server>> AttachServer(ClientConnected client_connected,
                                                     std::string handle,
                                                     ServerOptions options = {});

  // Any unary call of the contract:
  //   co_await broker.Call(&Broker::Rpcs::ListConnections, v1::ListConnectionsRequest());
  // `repeat`: made again when the way to the broker swallowed it; the request must bear that.
  using Rpcs = v1::SocketBroker::StubInterface::async_interface;
  template <typename Request, typename Response>
  streams::Task<absl::StatusOr<Response>> Call(void (Rpcs::*rpc)(grpc::ClientContext*,
                                                                 const Request*, Response*,
                                                                 std::function<void(grpc::Status)>),
                                               Request request, bool repeat = false);

  // Until the broker knows of every connection that was closed or aborted here: what is aborted at
  // once before Close, or before the program's end, may else live on for its lease. Returns at once
  // while the link is down: nobody can be told.
  streams::Task<absl::Status> WaitEnded();

  // Ends the link and every stream on it (StreamEnd::kGivenUp). The connections live on at the
  // broker, for their leases.
  void Close();

  LinkState state() const;
  // The broker's incarnation; 0 before the first answer.
  uint64_t incarnation() const;
  // Until the link is up (again), or closed for good.
  streams::Task<absl::Status> WaitUp();

 private:
  explicit Broker(std::shared_ptr<internal::Link> link) : link_(std::move(link)) {}
  // Makes the call and parses its answer; untyped, so that the template stays thin.
  static streams::Task<absl::Status> MakeCall(
      std::shared_ptr<internal::Link> link,
      std::function<void(v1::SocketBroker::StubInterface*, grpc::ClientContext*,
                         std::function<void(grpc::Status)>)>
          begin,
      bool repeat);

  friend Broker internal::MakeBroker(std::shared_ptr<internal::Link> link);
  std::shared_ptr<internal::Link> link_;
};

// --- implementation

namespace internal {
// Of a call that was cancelled gRPC still writes the answer: it is kept until then.
template <typename Request, typename Response>
streams::Task<absl::StatusOr<Response>> FinishCall(
    streams::Task<absl::Status> call, std::shared_ptr<std::pair<Request, Response>> messages) {
  absl::Status status = co_await std::move(call);
  if (!status.ok()) co_return status;
  co_return std::move(messages->second);
}
}  // namespace internal

template <typename Request, typename Response>
streams::Task<absl::StatusOr<Response>> Broker::Call(
    void (Rpcs::*rpc)(grpc::ClientContext*, const Request*, Response*,
                      std::function<void(grpc::Status)>),
    Request request, bool repeat) {
  auto messages = std::make_shared<std::pair<Request, Response>>(std::move(request), Response());
  return internal::FinishCall<Request, Response>(
      MakeCall(
          link_,
          [rpc, messages](v1::SocketBroker::StubInterface* stub, grpc::ClientContext* context,
                          std::function<void(grpc::Status)> done) {
            (stub->async()->*rpc)(context, &messages->first, &messages->second,
                                  [messages, done = std::move(done)](grpc::Status status) {
                                    done(std::move(status));
                                  });
          },
          repeat),
      messages);
}

}  // namespace sockbroker::client
