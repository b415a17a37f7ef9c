#include "client/cpp/internal/server_core.h"

#include <utility>

#include "client/cpp/broker.h"
#include "client/cpp/internal/endpoints.h"
#include "client/cpp/internal/make_connection.h"
#include "client/cpp/status.h"
#include "streams/event_loop.h"
#include "streams/with_cancel.h"

namespace sockbroker::client::internal {

using streams::Task;

ServerCore::ServerCore(std::shared_ptr<Link> link, ClientConnected client_connected,
                       ServerOptions options)
    : link_(std::move(link)),
      client_connected_(std::move(client_connected)),
      options_(std::move(options)) {
  link_->Add(this);
}

ServerCore::~ServerCore() { link_->Remove(this); }

void ServerCore::Take(v1::Server server) {
  server_ = std::move(server);
  if (eager() && server_.is_serving()) Listen(options_.credits);
}

Server ServerCore::MakeHandle(std::shared_ptr<ServerCore> core) {
  struct Owner {
    explicit Owner(std::shared_ptr<ServerCore> c) : core(std::move(c)) {}
    ~Owner() { core->Close(); }
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    const std::shared_ptr<ServerCore> core;
  };
  auto owner = std::make_shared<Owner>(core);
  return {std::move(owner), std::move(core)};
}

// --- accepting

void ServerCore::Listen(uint32_t credits) {
  if (closed_ || !link_->closed().ok()) return;
  if (listening_ == 0) {
    self_ = shared_from_this();
    listening_ = link_->session()->Listen(server_.handle(), credits, this);
  } else {
    link_->session()->AddCredits(listening_, credits);
  }
}

void ServerCore::StopListening() {
  if (listening_ == 0) return;
  if (link_->closed().ok()) link_->session()->StopListening(listening_);
  listening_ = 0;
  asked_ = 0;
  const std::shared_ptr<ServerCore> self = std::move(self_);
}

namespace {

Task<void> Serve(ClientConnected client_connected, Connection connection) {
  StreamWriter writer = connection.writer;
  co_await client_connected(std::move(connection.reader), std::move(connection.writer));
  writer.Close();
}

}  // namespace

session::ClientListener* ServerCore::OnAccepted(session::ClientChannel* channel,
                                                const v1::Connection& connection) {
  auto accepted = std::make_shared<Channel>(link_, options_.accepted);
  accepted->Accepted(channel, connection,
                     options_.tls.has_value() && options_.tls->allow_half_close());
  if (eager()) {
    // In a turn of its own: the session is at work.
    link_->loop()->CallSoon([self = shared_from_this(), accepted] {
      absl::StatusOr<Connection> pair = ConnectionMaker::Make(accepted);
      if (!pair.ok()) return;
      self->Listen(1);
      self->link_->loop()->Spawn(Serve(self->client_connected_, *std::move(pair)));
    });
  } else {
    if (asked_ > 0) asked_--;
    accepted_.push_back(accepted);
    acceptable_.WakeOne();
  }
  return accepted.get();
}

void ServerCore::OnFailed(const google::rpc::Status& status) {
  listening_ = 0;
  const std::shared_ptr<ServerCore> self = std::move(self_);
  End(ToStatus(status));
}

Task<absl::StatusOr<Connection>> ServerCore::Accept(std::shared_ptr<ServerCore> core) {
  if (core->eager()) {
    co_return absl::FailedPreconditionError("this server gives its connections to its callback");
  }
  while (true) {
    if (!core->accepted_.empty()) {
      std::shared_ptr<Channel> channel = std::move(core->accepted_.front());
      core->accepted_.pop_front();
      if (channel->ended() && !channel->bound()) continue;
      co_return ConnectionMaker::Make(channel);
    }
    if (core->closed_) {
      co_return core->why_.ok() ? absl::FailedPreconditionError("the server is closed")
                                : core->why_;
    }
    if (!core->server_.is_serving()) {
      co_return absl::FailedPreconditionError("the server is not serving yet");
    }
    core->waiting_++;
    if (core->asked_ < core->waiting_) {
      core->asked_++;
      core->Listen(1);
    }
    absl::Status status = co_await core->acceptable_.Wait();
    core->waiting_--;
    if (!status.ok()) co_return status;
  }
}

// --- the calls

Task<absl::Status> ServerCore::StartServing(std::shared_ptr<ServerCore> core) {
  v1::StartServingRequest request;
  request.set_handle(core->handle());
  auto answer =
      co_await MakeBroker(core->link_).Call(&Broker::Rpcs::StartServing, request, /*repeat=*/true);
  if (!answer.ok()) co_return answer.status();
  const bool was_serving = core->server_.is_serving();
  if (!was_serving && !core->closed_) core->Take(std::move(*answer->mutable_server()));
  co_return absl::OkStatus();
}

Task<absl::Status> ServerCore::ServeForever(std::shared_ptr<ServerCore> core) {
  if (core->closed_) co_return absl::FailedPreconditionError("the server is closed");
  if (std::exchange(core->forever_, true)) {
    co_return absl::FailedPreconditionError("serve_forever() is already being awaited");
  }
  absl::Status status;
  if (!core->server_.is_serving()) status = co_await StartServing(core);
  while (status.ok() && !core->closed_) status = co_await core->changed_.Wait();
  if (status.ok()) {
    status = core->why_.ok() ? absl::CancelledError("the server was closed") : core->why_;
  }
  core->Close();
  core->forever_ = false;
  co_return status;
}

Task<absl::Status> ServerCore::WaitClosed(std::shared_ptr<ServerCore> core) {
  while (!core->closed_) {
    if (absl::Status status = co_await core->changed_.Wait(); !status.ok()) co_return status;
  }
  v1::WaitServerClosedRequest request;
  request.set_handle(core->handle());
  auto answer = co_await MakeBroker(core->link_)
                    .Call(&Broker::Rpcs::WaitServerClosed, request, /*repeat=*/true);
  co_return answer.status();
}

Task<absl::StatusOr<std::size_t>> ServerCore::CloseClients(std::shared_ptr<ServerCore> core) {
  v1::CloseClientsRequest request;
  request.set_handle(core->handle());
  auto answer =
      co_await MakeBroker(core->link_).Call(&Broker::Rpcs::CloseClients, request, /*repeat=*/true);
  if (!answer.ok()) co_return answer.status();
  co_return answer->connections();
}

Task<absl::StatusOr<std::size_t>> ServerCore::AbortClients(std::shared_ptr<ServerCore> core) {
  v1::AbortClientsRequest request;
  request.set_handle(core->handle());
  auto answer =
      co_await MakeBroker(core->link_).Call(&Broker::Rpcs::AbortClients, request, /*repeat=*/true);
  if (!answer.ok()) co_return answer.status();
  co_return answer->connections();
}

void ServerCore::End(absl::Status why) {
  if (std::exchange(closed_, true)) return;
  why_ = std::move(why);
  StopListening();
  // Nobody will take them: their peers hear so.
  for (const std::shared_ptr<Channel>& channel : std::exchange(accepted_, {})) {
    (void)ConnectionMaker::Make(channel);
  }
  acceptable_.WakeAll();
  changed_.WakeAll();
}

void ServerCore::Close() {
  if (closed_) return;
  End(absl::OkStatus());
  if (!link_->closed().ok()) return;
  v1::CloseServerRequest request;
  request.set_handle(handle());
  link_->loop()->Spawn(
      [](std::shared_ptr<ServerCore> core, v1::CloseServerRequest close) -> Task<void> {
        (void)co_await MakeBroker(core->link_)
            .Call(&Broker::Rpcs::CloseServer, std::move(close), /*repeat=*/true);
      }(shared_from_this(), std::move(request)));
}

void ServerCore::Detach() {
  if (!closed_) End(absl::FailedPreconditionError("the server was left to its lease"));
}

std::vector<streams::SocketAddress> ServerCore::sockets() const {
  std::vector<streams::SocketAddress> addresses;
  if (closed_) return addresses;
  for (const v1::Endpoint& endpoint : server_.sockets()) {
    addresses.push_back(ToSocketAddress(endpoint));
  }
  return addresses;
}

}  // namespace sockbroker::client::internal

namespace sockbroker::client {

using internal::ServerCore;
using streams::Task;

std::vector<streams::SocketAddress> Server::sockets() const { return core_->sockets(); }
const std::string& Server::handle() const { return core_->handle(); }
bool Server::is_serving() const { return core_->serving(); }
bool Server::is_closed() const { return core_->closed(); }
Task<absl::Status> Server::StartServing() { return ServerCore::StartServing(core_); }
Task<absl::Status> Server::ServeForever() { return ServerCore::ServeForever(core_); }
void Server::Close() { core_->Close(); }
Task<absl::Status> Server::WaitClosed() { return ServerCore::WaitClosed(core_); }
Task<absl::StatusOr<std::size_t>> Server::CloseClients() { return ServerCore::CloseClients(core_); }
Task<absl::StatusOr<std::size_t>> Server::AbortClients() { return ServerCore::AbortClients(core_); }
Task<absl::StatusOr<Connection>> Server::Accept() { return ServerCore::Accept(core_); }
std::string Server::Detach() {
  core_->Detach();
  return core_->handle();
}

}  // namespace sockbroker::client
