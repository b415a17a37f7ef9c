#include "client/cpp/broker.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

#include "client/broker_address.h"
#include "client/cpp/internal/channel.h"
#include "client/cpp/internal/grpc_session_call.h"
#include "client/cpp/internal/link.h"
#include "client/cpp/internal/make_connection.h"
#include "client/cpp/internal/random_bytes.h"
#include "client/cpp/internal/server_core.h"
#include "client/cpp/status.h"

namespace sockbroker::client {

using internal::Channel;
using internal::Link;
using internal::ServerCore;
using streams::Task;

namespace {

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

v1::Family ToFamily(int family) {
  if (family == AF_INET) return v1::FAMILY_INET;
  return family == AF_INET6 ? v1::FAMILY_INET6 : v1::FAMILY_UNSPECIFIED;
}

template <typename Request>
void SetPort(const streams::Port& port, Request* request) {
  if (port.is_service()) {
    request->set_service(port.service());
  } else {
    request->set_port(static_cast<uint32_t>(port.number()));
  }
}

// gRPC 1.51 ends the threads of its callbacks with the last channel that has made a call, and joins
// them: also when that channel goes on one of these threads, as it does with a call whose user has
// left. One channel to nowhere stays until the end of the process.
void KeepCallbackThreads() {
  static auto* const kept = [] {
    struct Call {
      std::shared_ptr<grpc::Channel> channel =
          grpc::CreateChannel("unix:/dev/null", grpc::InsecureChannelCredentials());
      std::unique_ptr<v1::SocketBroker::StubInterface> stub = v1::SocketBroker::NewStub(channel);
      grpc::ClientContext context;
      v1::GetServerRequest request;
      v1::Server response;
    };
    auto* call = new Call();
    call->context.TryCancel();
    call->stub->async()->GetServer(&call->context, &call->request, &call->response,
                                   [](const grpc::Status&) {});
    return call;
  }();
  (void)kept;
}

// A new channel for each attempt: it dials at once, and no back-off of gRPC's own stands in
// between.
std::shared_ptr<grpc::Channel> MakeChannel(const BrokerAddress& address,
                                           const BrokerOptions& options) {
  KeepCallbackThreads();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // The time one attempt to connect may take, in spite of its name.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(options.connect_timeout)));
  // A link that went silent is noticed; the broker allows a ping every 10 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A proxy for the web is no way to a broker.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(8 << 20);
  return grpc::CreateCustomChannel(
      address.target(),
      options.credentials != nullptr ? options.credentials : grpc::InsecureChannelCredentials(),
      arguments);
}

internal::LinkTransport GrpcTransport(BrokerAddress address, BrokerOptions options,
                                      std::shared_ptr<internal::LoopGate> gate) {
  options.on_state = nullptr;  // whatever it holds is the link's to keep
  auto latest = std::make_shared<std::shared_ptr<grpc::Channel>>();
  internal::LinkTransport transport;
  transport.dial = [=](internal::SessionCall::Listener* listener) {
    *latest = MakeChannel(address, options);
    return internal::DialGrpcSession(*latest, options.metadata, gate, listener);
  };
  transport.channel = [latest] { return *latest; };
  return transport;
}

template <typename Request>
Task<absl::StatusOr<Connection>> OpenChannel(std::shared_ptr<Link> link, Request request,
                                             ConnectionOptions options) {
  if (options.limit == 0) co_return absl::InvalidArgumentError("Limit cannot be <= 0");
  if (absl::Status status = link->MayOpen(); !status.ok()) co_return status;
  // So that it can be asked again after a broken link.
  if (request.request_id().empty()) request.set_request_id(internal::RandomBytes(16));
  auto channel = std::make_shared<Channel>(link, std::move(options));
  channel->Open(std::move(request));
  if (absl::Status status = co_await Channel::WaitBound(channel); !status.ok()) co_return status;
  co_return ConnectionMaker::Make(channel);
}

Task<absl::StatusOr<Connection>> BindChannel(std::shared_ptr<Link> link, std::string handle,
                                             AttachOptions options) {
  if (options.limit == 0) co_return absl::InvalidArgumentError("Limit cannot be <= 0");
  if (!link->closed().ok()) co_return link->closed();
  auto channel = std::make_shared<Channel>(link, options);
  channel->Bind(handle, options.steal, options.read_offset);
  if (absl::Status status = co_await Channel::WaitBound(channel); !status.ok()) co_return status;
  co_return ConnectionMaker::Make(channel);
}

// What the calls that begin or find a server have in common. `handle` gets the server out of the
// answer.
Task<absl::StatusOr<Server>> Take(std::shared_ptr<Link> link, ClientConnected client_connected,
                                  ServerOptions options, absl::StatusOr<v1::Server> server) {
  if (!server.ok()) co_return server.status();
  auto core = std::make_shared<ServerCore>(std::move(link), std::move(client_connected),
                                           std::move(options));
  core->Take(*std::move(server));
  co_return ServerCore::MakeHandle(std::move(core));
}

absl::StatusOr<v1::Server> ServerOf(absl::StatusOr<v1::StartServerResponse> response) {
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_server());
}

absl::Status CheckServer(const Link& link, const ServerOptions& options) {
  if (options.accepted.limit == 0) return absl::InvalidArgumentError("Limit cannot be <= 0");
  return link.MayOpen();
}

template <typename Request>
void SetServerOptions(const ServerOptions& options, Request* request) {
  *request->mutable_options() = options.broker;
  *request->mutable_options()->mutable_accepted() = options.accepted.broker;
  request->mutable_options()->set_backlog(static_cast<uint32_t>(options.backlog));
  request->mutable_options()->set_start_serving(options.start_serving);
  if (options.tls.has_value()) *request->mutable_tls() = *options.tls;
}

}  // namespace

std::shared_ptr<grpc::ChannelCredentials> MutualTls(std::string ca_pem, std::string certificate_pem,
                                                    std::string key_pem) {
  return grpc::SslCredentials({.pem_root_certs = std::move(ca_pem),
                               .pem_private_key = std::move(key_pem),
                               .pem_cert_chain = std::move(certificate_pem)});
}

Broker internal::MakeBroker(std::shared_ptr<Link> link) { return Broker(std::move(link)); }

Task<absl::StatusOr<Broker>> Broker::Connect(std::string address, BrokerOptions options) {
  absl::StatusOr<BrokerAddress> parsed = BrokerAddress::Choose(address);
  if (!parsed.ok()) co_return parsed.status();
  if (!options.holder.empty() && options.holder.size() != 16) {
    co_return absl::InvalidArgumentError("a holder has 16 bytes");
  }
  streams::EventLoop* loop = (co_await streams::internal::CurrentContext{}).loop;
  auto gate = std::make_shared<internal::LoopGate>(loop);
  std::shared_ptr<Link> link = Link::Create(loop, options, gate);
  link->Start(GrpcTransport(*std::move(parsed), std::move(options), std::move(gate)));
  if (absl::Status status = co_await Link::WaitUp(link); !status.ok()) {
    link->Close(status);
    co_return status;
  }
  co_return Broker(std::move(link));
}

// --- connections

Task<absl::StatusOr<Connection>> Broker::Open(v1::OpenConnectionRequest request,
                                              ConnectionOptions options) {
  return OpenChannel(link_, std::move(request), std::move(options));
}

Task<absl::StatusOr<Connection>> Broker::Open(v1::OpenUnixConnectionRequest request,
                                              ConnectionOptions options) {
  return OpenChannel(link_, std::move(request), std::move(options));
}

Task<absl::StatusOr<Connection>> Broker::OpenConnection(std::optional<std::string> host,
                                                        streams::Port port,
                                                        OpenConnectionOptions options) {
  v1::OpenConnectionRequest request;
  if (host.has_value()) request.set_host(*std::move(host));
  SetPort(port, &request);
  request.set_family(ToFamily(options.family));
  request.set_flags(options.flags);
  if (options.local_addr.has_value()) {
    if (!options.local_addr->first.empty()) request.set_local_host(options.local_addr->first);
    request.set_local_port(options.local_addr->second);
  }
  if (options.happy_eyeballs_delay.has_value()) {
    *request.mutable_happy_eyeballs_delay() = ToProto(*options.happy_eyeballs_delay);
  }
  if (options.interleave.has_value()) {
    request.set_interleave(static_cast<uint32_t>(*options.interleave));
  }
  *request.mutable_options() = options.broker;
  if (options.proxy_protocol.has_value()) {
    *request.mutable_proxy_protocol() = *options.proxy_protocol;
  }
  if (options.tls.has_value()) *request.mutable_tls() = *options.tls;
  return Open(std::move(request), std::move(options));
}

Task<absl::StatusOr<Connection>> Broker::OpenUnixConnection(std::string path,
                                                            OpenUnixConnectionOptions options) {
  v1::OpenUnixConnectionRequest request;
  request.set_path(std::move(path));
  *request.mutable_options() = options.broker;
  if (options.proxy_protocol.has_value()) {
    *request.mutable_proxy_protocol() = *options.proxy_protocol;
  }
  if (options.tls.has_value()) *request.mutable_tls() = *options.tls;
  return Open(std::move(request), std::move(options));
}

Task<absl::StatusOr<Connection>> Broker::Attach(std::string handle, AttachOptions options) {
  return BindChannel(link_, std::move(handle), std::move(options));
}

// --- servers

Task<absl::StatusOr<Server>> Broker::Start(ClientConnected client_connected,
                                           v1::StartServerRequest request, ServerOptions options) {
  std::shared_ptr<Link> link = link_;
  if (absl::Status status = CheckServer(*link, options); !status.ok()) co_return status;
  if (request.request_id().empty()) request.set_request_id(internal::RandomBytes(16));
  auto response = co_await Broker(link).Call(&Rpcs::StartServer, std::move(request),
                                             /*repeat=*/true);
  co_return co_await Take(std::move(link), std::move(client_connected), std::move(options),
                          ServerOf(std::move(response)));
}

Task<absl::StatusOr<Server>> Broker::Start(ClientConnected client_connected,
                                           v1::StartUnixServerRequest request,
                                           ServerOptions options) {
  std::shared_ptr<Link> link = link_;
  if (absl::Status status = CheckServer(*link, options); !status.ok()) co_return status;
  if (request.request_id().empty()) request.set_request_id(internal::RandomBytes(16));
  auto response = co_await Broker(link).Call(&Rpcs::StartUnixServer, std::move(request),
                                             /*repeat=*/true);
  co_return co_await Take(std::move(link), std::move(client_connected), std::move(options),
                          ServerOf(std::move(response)));
}

Task<absl::StatusOr<Server>> Broker::StartServer(ClientConnected client_connected,
                                                 std::vector<std::string> hosts, streams::Port port,
                                                 StartServerOptions options) {
  v1::StartServerRequest request;
  for (std::string& host : hosts) request.add_hosts(std::move(host));
  SetPort(port, &request);
  request.set_family(ToFamily(options.family));
  if (options.flags.has_value()) request.set_flags(*options.flags);
  request.set_reuse_address(options.reuse_address);
  request.set_reuse_port(options.reuse_port);
  request.set_keep_alive(options.keep_alive);
  SetServerOptions(options, &request);
  return Start(std::move(client_connected), std::move(request), std::move(options));
}

Task<absl::StatusOr<Server>> Broker::StartServer(ClientConnected client_connected, std::string host,
                                                 streams::Port port, StartServerOptions options) {
  return StartServer(std::move(client_connected), std::vector<std::string>{std::move(host)},
                     std::move(port), std::move(options));
}

Task<absl::StatusOr<Server>> Broker::StartUnixServer(ClientConnected client_connected,
                                                     std::string path,
                                                     StartUnixServerOptions options) {
  v1::StartUnixServerRequest request;
  request.set_path(std::move(path));
  request.set_cleanup_socket(options.cleanup_socket);
  if (options.mode.has_value()) request.set_mode(static_cast<uint32_t>(*options.mode));
  SetServerOptions(options, &request);
  return Start(std::move(client_connected), std::move(request), std::move(options));
}

Task<absl::StatusOr<Server>> Broker::AttachServer(ClientConnected client_connected,
                                                  std::string handle, ServerOptions options) {
  std::shared_ptr<Link> link = link_;
  v1::GetServerRequest request;
  request.set_handle(std::move(handle));
  auto server = co_await Broker(link).Call(&Rpcs::GetServer, std::move(request), /*repeat=*/true);
  if (server.ok() && server->closed()) {
    co_return absl::FailedPreconditionError("the server is closed");
  }
  co_return co_await Take(std::move(link), std::move(client_connected), std::move(options),
                          std::move(server));
}

// --- the link

Task<absl::Status> Broker::MakeCall(
    std::shared_ptr<Link> link,
    std::function<void(v1::SocketBroker::StubInterface*, grpc::ClientContext*,
                       std::function<void(grpc::Status)>)>
        begin,
    bool repeat) {
  return Link::MakeCall(std::move(link), std::move(begin), repeat);
}

Task<absl::Status> Broker::WaitEnded() { return internal::Link::WaitEnded(link_); }

void Broker::Close() { link_->Close(absl::CancelledError("the link to the broker was closed")); }
LinkState Broker::state() const { return link_->state(); }
uint64_t Broker::incarnation() const { return link_->incarnation(); }
Task<absl::Status> Broker::WaitUp() { return Link::WaitUp(link_); }

}  // namespace sockbroker::client
