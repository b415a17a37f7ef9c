#include "server/dial.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/connection_record.h"
#include "server/endpoint_codec.h"
#include "server/inherited_descriptors.h"
#include "server/server_record.h"
#include "server/tls_settings.h"
#include "streams/open_connection.h"
#include "streams/server.h"

namespace sockbroker::server {
namespace {

using streams::Task;

CreationOutcome Failed(RpcStatus status) { return {.status = std::move(status), .handle = {}}; }

RpcStatus OwnListener() { return Denied("own-listener", "the broker does not connect to itself"); }

RpcStatus CheckQuota(std::size_t open, std::size_t limit, absl::string_view name) {
  if (limit == 0 || open < limit) return RpcStatus();
  return Exhausted(v1::QUOTA, name, limit, absl::Seconds(1),
                   absl::StrCat("the broker has as many ", name, " as it may have"));
}

// The descriptors of that name; each name can be had once.
RpcStatus TakeInherited(BrokerCore* core, const std::string& name, InheritedDescriptors::Kind kind,
                        std::vector<streams::Descriptor>* descriptors) {
  constexpr absl::string_view kAllowed =
      "the name of a descriptor that the broker was given at its start and nobody has taken yet";
  if (core->options.inherited == nullptr) return InvalidField("sock", kAllowed);
  auto taken = core->options.inherited->Take(name, kind);
  if (absl::IsNotFound(taken.status())) return InvalidField("sock", kAllowed);
  if (absl::IsFailedPrecondition(taken.status())) {
    return WrongState(v1::UNSUPPORTED, taken.status().message());
  }
  if (!taken.ok()) return InvalidField("sock", taken.status().message());
  *descriptors = *std::move(taken);
  return RpcStatus();
}

Task<absl::StatusOr<streams::Connection>> Connect(OpenPlan* plan,
                                                  std::vector<streams::Descriptor> adopted) {
  // Behind a PROXY header TLS comes later: see Introduce.
  const streams::TlsOptions tls =
      plan->proxy_header.empty() ? plan->engine.tls : streams::TlsOptions();
  streams::OpenConnectionOptions engine = plan->engine;
  engine.tls = tls;
  if (!adopted.empty()) {
    return plan->is_unix
               ? streams::OpenUnixConnection(
                     std::move(adopted.front()),
                     {.stream = plan->engine.stream, .socket = plan->engine.socket, .tls = tls})
               : streams::OpenConnection(std::move(adopted.front()), engine);
  }
  if (plan->is_unix) {
    return streams::OpenUnixConnection(plan->unix_path,
                                       {.stream = plan->engine.stream,
                                        .socket = plan->engine.socket,
                                        .tls = tls,
                                        .connect_timeout = plan->engine.connect_timeout,
                                        .check_address = plan->engine.check_address});
  }
  return streams::OpenConnection(plan->host, plan->port, engine);
}

// The PROXY header, which is never protected, then TLS, if either was asked for.
Task<absl::Status> Introduce(const OpenPlan& plan, streams::Connection* connection) {
  if (plan.proxy_header.empty()) co_return absl::OkStatus();  // TLS came with the connect
  if (absl::Status status = connection->writer.Write(absl::Cord(plan.proxy_header)); !status.ok()) {
    co_return status;
  }
  if (plan.engine.tls.context == nullptr) co_return absl::OkStatus();
  streams::StartTlsOptions options = ToStartTlsOptions(plan.engine.tls);
  if (!options.server_hostname.has_value() && !plan.is_unix) options.server_hostname = plan.host;
  options.unread = streams::StartTlsOptions::Unread::kBelongsToTls;
  co_return co_await connection->writer.StartTls(plan.engine.tls.context, std::move(options));
}

Task<absl::StatusOr<streams::Server>> Listen(ServePlan* plan,
                                             std::vector<streams::Descriptor> adopted) {
  if (plan->is_unix) {
    return adopted.empty()
               ? streams::StartUnixServer(nullptr, plan->unix_path, plan->unix_server)
               : streams::StartUnixServer(nullptr, std::move(adopted.front()), plan->unix_server);
  }
  return adopted.empty() ? streams::StartServer(nullptr, plan->hosts, plan->port, plan->tcp)
                         : streams::StartServer(nullptr, std::move(adopted), plan->tcp);
}

}  // namespace

Task<CreationOutcome> Dial(BrokerCore* core, OpenPlan plan, Maker maker) {
  if (core->draining) co_return Failed(Draining());
  if (RpcStatus status =
          CheckQuota(core->connections.open(), core->options.limits.connections, "connections");
      !status.ok()) {
    co_return Failed(std::move(status));
  }
  if (plan.tls.has_value()) {
    RpcStatus status = core->tls.Make(*plan.tls, streams::TlsSide::kClient, maker.principal->name,
                                      &plan.engine.tls);
    if (status.ok() && !plan.engine.tls.server_hostname.has_value() &&
        (plan.is_unix || plan.sock.has_value() || plan.host.value_or("").empty())) {
      status = InvalidField("tls.server_hostname", "present: there is no host to take it from");
    }
    if (!status.ok()) co_return Failed(std::move(status));
  }
  // With happy eyeballs two attempts can have a socket at the same time.
  std::vector<DescriptorBudget::Hold> descriptors;
  const std::size_t needed = plan.engine.happy_eyeballs_delay.has_value() ? 2 : 1;
  if (RpcStatus status = core->AcquireDescriptors(needed, &descriptors); !status.ok()) {
    co_return Failed(std::move(status));
  }
  std::vector<streams::Descriptor> adopted;
  if (plan.sock.has_value()) {
    if (RpcStatus status =
            TakeInherited(core, *plan.sock, InheritedDescriptors::Kind::kConnection, &adopted);
        !status.ok()) {
      co_return Failed(std::move(status));
    }
  }
  bool denied = false;
  plan.engine.check_address = [core, &denied](const streams::SocketAddress& address) {
    if (!core->own_listeners.Contains(address)) return absl::OkStatus();
    denied = true;
    return absl::PermissionDeniedError("the broker's own listener");
  };
  absl::StatusOr<streams::Connection> connection = co_await Connect(&plan, std::move(adopted));
  if (connection.ok()) {
    if (absl::Status status = co_await Introduce(plan, &*connection); !status.ok()) {
      connection = status;
    }
  }
  if (!connection.ok()) {
    if (core->draining) co_return Failed(Draining());
    if (denied) co_return Failed(OwnListener());
    co_return Failed(FromEngine(connection.status(), EngineCall::kConnect,
                                plan.sock.has_value() ? "sock"
                                : plan.is_unix        ? "path"
                                                      : "host"));
  }
  if (core->draining) {
    connection->writer.Close(/*discard_pending=*/true);
    co_return Failed(Draining());
  }
  ConnectionRecord::Birth birth;
  birth.socket.connection = *std::move(connection);
  birth.socket.descriptor = std::move(descriptors.front());
  birth.settings = std::move(plan.settings);
  birth.principal = std::move(maker.principal);
  birth.request_key = std::move(maker.request_key);
  birth.requested_host = std::move(plan.requested_host);
  birth.rpc = std::move(maker.rpc);
  birth.written_before = plan.proxy_header.size();
  birth.socket.tls = plan.tls.has_value();
  co_return CreationOutcome{RpcStatus(),
                            ConnectionRecord::Create(core, std::move(birth))->handle()};
}

Task<CreationOutcome> Serve(BrokerCore* core, ServePlan plan, Maker maker) {
  if (core->draining) co_return Failed(Draining());
  if (RpcStatus status = CheckQuota(core->servers.open(), core->options.limits.servers, "servers");
      !status.ok()) {
    co_return Failed(std::move(status));
  }
  if (plan.tls.has_value()) {
    RpcStatus status = core->tls.Make(*plan.tls, streams::TlsSide::kServer, maker.principal->name,
                                      &plan.settings.tls);
    if (!status.ok()) co_return Failed(std::move(status));
  }
  const auto name_is_free = [&] {
    if (plan.settings.name.empty()) return RpcStatus();
    if (!core->servers.HasName(maker.principal->name, plan.settings.name)) return RpcStatus();
    return InvalidField("options.name", "a name that none of your open servers has");
  };
  if (RpcStatus status = name_is_free(); !status.ok()) co_return Failed(std::move(status));
  std::vector<DescriptorBudget::Hold> descriptors;
  if (RpcStatus status = core->AcquireDescriptors(1, &descriptors); !status.ok()) {
    co_return Failed(std::move(status));
  }
  std::vector<streams::Descriptor> adopted;
  if (plan.sock.has_value()) {
    if (RpcStatus status =
            TakeInherited(core, *plan.sock, InheritedDescriptors::Kind::kListening, &adopted);
        !status.ok()) {
      co_return Failed(std::move(status));
    }
  }
  absl::StatusOr<streams::Server> server = co_await Listen(&plan, std::move(adopted));
  if (!server.ok()) {
    if (core->draining) co_return Failed(Draining());
    co_return Failed(FromEngine(server.status(), EngineCall::kBind,
                                plan.sock.has_value() ? "sock"
                                : plan.is_unix        ? "path"
                                                      : "hosts"));
  }
  // How many sockets a name or "every interface" becomes is known only now.
  const std::size_t sockets = server->sockets().size();
  RpcStatus status = core->draining ? Draining() : name_is_free();
  if (status.ok() && sockets > 1) status = core->AcquireDescriptors(sockets - 1, &descriptors);
  if (!status.ok()) {
    server->Close();
    co_return Failed(std::move(status));
  }
  ServerRecord::Birth birth;
  birth.server = *std::move(server);
  birth.settings = std::move(plan.settings);
  birth.principal = std::move(maker.principal);
  birth.request_key = std::move(maker.request_key);
  birth.rpc = std::move(maker.rpc);
  birth.descriptors = std::move(descriptors);
  co_return CreationOutcome{RpcStatus(), ServerRecord::Create(core, std::move(birth))->handle()};
}

Task<CreationOutcome> AcceptFrom(BrokerCore* core, std::shared_ptr<ServerRecord> server,
                                 Maker maker) {
  if (core->draining) co_return Failed(Draining());
  if (server == nullptr) co_return Failed(WrongState(v1::SERVER_CLOSED, "the server is closed"));
  const Lease::Use use = server->BeginCall();
  if (RpcStatus status =
          CheckQuota(core->connections.open(), core->options.limits.connections, "connections");
      !status.ok()) {
    co_return Failed(std::move(status));
  }
  ConnectionRecord::Birth birth;
  if (RpcStatus status = co_await server->Accept(&birth.socket); !status.ok()) {
    co_return Failed(std::move(status));
  }
  if (core->draining) {
    server->TakeBack(std::move(birth.socket));
    co_return Failed(Draining());
  }
  birth.settings = server->settings().accepted;
  birth.principal = std::move(maker.principal);
  birth.request_key = std::move(maker.request_key);
  birth.rpc = std::move(maker.rpc);
  birth.server = server;
  co_return CreationOutcome{RpcStatus(),
                            ConnectionRecord::Create(core, std::move(birth))->handle()};
}

void UndoConnection(BrokerCore* core, const Principal& principal, const Handle& handle) {
  const auto found = core->connections.Find(principal.name, handle.bytes());
  if (found.record == nullptr) return;
  if (found.record->unclaimed()) {
    found.record->GiveBack();
  } else {
    found.record->Close(v1::CLOSED_BY_CLIENT, /*discard=*/true);
  }
}

void UndoServer(BrokerCore* core, const Principal& principal, const Handle& handle) {
  const auto found = core->servers.Find(principal.name, handle.bytes());
  if (found.record != nullptr) found.record->Close("nobody waited for it");
}

}  // namespace sockbroker::server
