#include "server/broker_service.h"

#include <google/protobuf/generated_message_reflection.h>

#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/audit_log.h"
#include "server/connection_record.h"
#include "server/connection_rpcs.h"
#include "server/creation_call.h"
#include "server/creation_spec.h"
#include "server/dial.h"
#include "server/listing.h"
#include "server/server_record.h"
#include "server/server_rpcs.h"
#include "server/session_call.h"
#include "server/unary_call.h"
#include "server/watch_call.h"

namespace sockbroker::server {
namespace {

using streams::Task;
using Reactor = grpc::ServerUnaryReactor;

RpcStatus Bug(const std::exception& error) {
  return RpcStatus(grpc::StatusCode::INTERNAL, v1::REASON_UNSPECIFIED, error.what());
}

// What a session that has the connection does alone.
template <typename Request>
constexpr bool kMovesBytes =
    std::is_same_v<Request, v1::ReadRequest> || std::is_same_v<Request, v1::ReadLineRequest> ||
    std::is_same_v<Request, v1::ReadExactlyRequest> ||
    std::is_same_v<Request, v1::ReadUntilRequest> || std::is_same_v<Request, v1::WriteRequest> ||
    std::is_same_v<Request, v1::WriteLinesRequest> || std::is_same_v<Request, v1::DrainRequest> ||
    std::is_same_v<Request, v1::WriteEofRequest>;

template <typename Request>
RpcStatus CheckEpoch(const ConnectionRecord& record, const Request& request) {
  if constexpr (requires { request.has_epoch(); }) {
    if (request.has_epoch() && request.epoch() != record.epoch()) return StaleEpoch(record.epoch());
  }
  return RpcStatus();
}

template <typename Request, typename Response>
Task<void> RunOnConnection(std::shared_ptr<UnaryCall> call,
                           std::shared_ptr<ConnectionRecord> record, Lease::Use /*use*/,
                           Request* request, Response* response) {
  RpcStatus status;
  try {
    status = co_await Run(CallerView{call->gone()}, *record, *request, response);
  } catch (const std::exception& error) {
    status = Bug(error);
  }
  record->EndCall();
  call->Finish(status);
}

// StartTls of a connection that is gone.
Task<CreationOutcome> RefuseUpgrade(std::shared_ptr<const ConnectionTombstone> tombstone) {
  co_return CreationOutcome{ClosedError(*tombstone), Handle()};
}

// StartTls, as an attempt that a repeated request joins.
Task<CreationOutcome> UpgradeToTls(std::shared_ptr<ConnectionRecord> record,
                                   v1::StartTlsRequest request) {
  const Lease::Use use = record->BeginCall();
  RpcStatus status = CheckEpoch(*record, request);
  if (status.ok() && record->binding() != nullptr) status = IsBound(record->epoch());
  if (status.ok()) status = co_await record->StartTls(request);
  record->EndCall();
  co_return CreationOutcome{std::move(status), record->handle()};
}

template <typename Request, typename Response>
Task<void> RunOnServer(std::shared_ptr<UnaryCall> call, std::shared_ptr<ServerRecord> record,
                       Lease::Use /*use*/, const Request* request, Response* response) {
  RpcStatus status;
  try {
    status = co_await Run(*record, *request, response);
  } catch (const std::exception& error) {
    status = Bug(error);
  }
  call->Finish(status);
}

// Finishes `call` with a page of what `table` has. `Message` is what it lists, and `add` puts one
// into the response.
template <typename Message, typename Table, typename Response, typename Add>
Task<void> RunList(std::shared_ptr<UnaryCall> call, const Table* table, typename Table::Query query,
                   uint64_t after, std::size_t page_size, Response* response, Add add) {
  // One more than asked for, to know whether there is another page.
  std::vector<typename Table::Item> items = table->Scan(query, after, page_size + 1);
  bool more = items.size() > page_size;
  if (more) items.pop_back();
  std::vector<uint64_t> orders;
  orders.reserve(items.size());
  for (const auto& item : items) orders.push_back(item.order);
  std::vector<Message> messages =
      co_await SnapshotAll<Message>(std::move(items), [](const auto&) { return true; });
  std::size_t bytes = 0;
  uint64_t last = after;
  for (std::size_t i = 0; i < messages.size(); i++) {
    bytes += messages[i].ByteSizeLong();
    if (bytes > kMaxPageBytes && i > 0) {
      more = true;
      break;
    }
    last = orders[i];
    if (!messages[i].handle().empty()) add(std::move(messages[i]), response);
  }
  if (more) response->set_next_page_token(MakePageToken(last));
  call->Finish(RpcStatus());
}

RpcStatus CheckHandlePrefix(const std::string& prefix) {
  return prefix.size() <= Handle::kSize ? RpcStatus()
                                        : InvalidField("handle_prefix", "at most 32 bytes");
}

RpcStatus CheckServerFilter(const std::string& server) {
  return server.empty() || server.size() == Handle::kSize
             ? RpcStatus()
             : InvalidField("server", "a server's handle, or absent");
}

// CreationCall::Fill for a table of records: the record as it is now, or its tombstone.
template <typename Table, typename Set>
auto FillFrom(Table* table, std::shared_ptr<const Principal> principal, Set set) {
  return [table, principal, set](const Handle& handle, std::function<bool()> claim,
                                 std::function<void(RpcStatus)> then) {
    auto found = table->Find(principal->name, handle.bytes());
    if (found.record != nullptr) {
      found.record->loop()->Dispatch([record = found.record, set, claim, then] {
        auto snapshot = record->Snapshot();
        if constexpr (requires { record->RestartClaimTimer(); }) record->RestartClaimTimer();
        if (!claim()) return;
        set(std::move(snapshot));
        then(RpcStatus());
      });
      return;
    }
    if (!claim()) return;
    if (found.tombstone != nullptr) set(found.tombstone->last);
    then(found.status);
  };
}

}  // namespace

BrokerService::BrokerService(BrokerCore* core) : core_(core) {
  // Nothing else names what the file of the service alone defines, so the linker would leave its
  // descriptor out: reflection would not know the service's methods, nor would we.
  (void)google::protobuf::internal::AddDescriptorsRunner(
      &descriptor_table_sockbroker_2fv1_2fsockbroker_2eproto);
  // Its messages stay as they are on the wire: parsing them would copy every payload.
  const auto* method = google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(
      "sockbroker.v1.SocketBroker.Session");
  MarkMethodRawCallback(method->index(),
                        new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                            [this](grpc::CallbackServerContext* context) {
                              return SessionCall::Start(
                                  core_, PrincipalOf(*context, {core_->options.allow_all}));
                            }));
}

template <typename Request, typename Response>
Reactor* BrokerService::OnConnection(Context* context, const Request* request, Response* response) {
  if (RpcStatus status = Check(*request); !status.ok()) return FinishNow(context, status);
  const auto principal = PrincipalOf(*context, {core_->options.allow_all});
  auto found = core_->connections.Find(principal->name, request->handle());
  if (found.tombstone != nullptr) {
    return FinishNow(context, AfterEnd(*found.tombstone, *request, response));
  }
  if (found.record == nullptr) return FinishNow(context, found.status);
  std::shared_ptr<UnaryCall> call = UnaryCall::Start(found.record->loop());
  Reactor* const reactor = call->reactor();
  call->loop()->Dispatch([call, record = std::move(found.record), request, response] {
    if (record->state() == ConnectionRecord::State::kReleased) {
      return call->Finish(NoSuchHandle());
    }
    // Counted here and not when the task starts: a lease that is about to expire looks in between.
    Lease::Use use = record->BeginCall();
    if (record->tombstone() != nullptr) {
      return call->Finish(AfterEnd(*record->tombstone(), *request, response));
    }
    if (RpcStatus status = CheckEpoch(*record, *request); !status.ok()) return call->Finish(status);
    if (kMovesBytes<Request> && record->binding() != nullptr) {
      return call->Finish(IsBound(record->epoch()));
    }
    // gRPC made the request for this call alone, and nobody else reads it.
    call->loop()->Spawn(
        RunOnConnection(call, record, std::move(use), const_cast<Request*>(request), response),
        call->cancel_state());
  });
  return reactor;
}

template <typename Request, typename Response>
Reactor* BrokerService::OnServer(Context* context, const Request* request, Response* response) {
  const auto principal = PrincipalOf(*context, {core_->options.allow_all});
  auto found = core_->servers.Find(principal->name, request->handle());
  if (found.tombstone != nullptr) {
    return FinishNow(context, AfterEnd(*found.tombstone, *request, response));
  }
  if (found.record == nullptr) return FinishNow(context, found.status);
  std::shared_ptr<UnaryCall> call = UnaryCall::Start(found.record->loop());
  Reactor* const reactor = call->reactor();
  call->loop()->Dispatch([call, record = std::move(found.record), request, response] {
    if (record->tombstone() != nullptr) {
      return call->Finish(AfterEnd(*record->tombstone(), *request, response));
    }
    call->loop()->Spawn(RunOnServer(call, record, record->BeginCall(), request, response),
                        call->cancel_state());
  });
  return reactor;
}

// --- connect

namespace {

template <typename Request>
Reactor* Open(BrokerCore* core, grpc::CallbackServerContext* context, const Request& request,
              v1::OpenConnectionResponse* response) {
  CreationSpec spec;
  if (RpcStatus status =
          SpecOfOpen(core, PrincipalOf(*context, {core->options.allow_all}), request, &spec);
      !status.ok()) {
    return FinishNow(context, status);
  }
  spec.loop = core->NextLoop();
  auto fill = FillFrom(&core->connections, spec.principal, [response](v1::Connection connection) {
    *response->mutable_connection() = std::move(connection);
  });
  return CreationCall::Start(core, std::move(spec), std::move(fill));
}

Reactor* StartListening(BrokerCore* core, grpc::CallbackServerContext* context, RpcStatus parsed,
                        ServePlan plan, CreationSpec spec, v1::StartServerResponse* response) {
  if (!parsed.ok()) return FinishNow(context, parsed);
  const std::string requested = plan.is_unix         ? plan.unix_path
                                : plan.hosts.empty() ? ""
                                                     : plan.hosts.front();
  spec.refused = [core, requested, principal = spec.principal, rpc = spec.rpc,
                  trace = plan.settings.shown.traceparent()](const RpcStatus& status) {
    AuditRefusal(*core, "server", rpc, *principal, requested, trace, status);
  };
  RpcStatus status = core->draining
                         ? Draining()
                         : CheckRights(*spec.principal, plan.is_unix, plan.sock.has_value());
  if (!status.ok()) {
    spec.refused(status);
    return FinishNow(context, status);
  }
  spec.loop = core->NextLoop();
  spec.make = [core, plan = std::move(plan)](Maker maker) {
    return Serve(core, plan, std::move(maker));
  };
  spec.undo = [core, principal = spec.principal](const Handle& handle) {
    UndoServer(core, *principal, handle);
  };
  auto fill = FillFrom(&core->servers, spec.principal, [response](v1::Server server) {
    *response->mutable_server() = std::move(server);
  });
  return CreationCall::Start(core, std::move(spec), std::move(fill));
}

}  // namespace

Reactor* BrokerService::OpenConnection(Context* context, const v1::OpenConnectionRequest* request,
                                       v1::OpenConnectionResponse* response) {
  return Open(core_, context, *request, response);
}

Reactor* BrokerService::OpenUnixConnection(Context* context,
                                           const v1::OpenUnixConnectionRequest* request,
                                           v1::OpenConnectionResponse* response) {
  return Open(core_, context, *request, response);
}

// --- serve

Reactor* BrokerService::StartServer(Context* context, const v1::StartServerRequest* request,
                                    v1::StartServerResponse* response) {
  ServePlan plan;
  RpcStatus status = ParseStart(*request, core_->options.limits, &plan);
  return StartListening(
      core_, context, std::move(status), std::move(plan),
      MakeSpec(PrincipalOf(*context, {core_->options.allow_all}), "StartServer", *request),
      response);
}

Reactor* BrokerService::StartUnixServer(Context* context, const v1::StartUnixServerRequest* request,
                                        v1::StartServerResponse* response) {
  ServePlan plan;
  RpcStatus status = ParseStartUnix(*request, core_->options.limits, &plan);
  return StartListening(
      core_, context, std::move(status), std::move(plan),
      MakeSpec(PrincipalOf(*context, {core_->options.allow_all}), "StartUnixServer", *request),
      response);
}

Reactor* BrokerService::Accept(Context* context, const v1::AcceptRequest* request,
                               v1::AcceptResponse* response) {
  if (RpcStatus status = CheckRequestId(request->request_id()); !status.ok()) {
    return FinishNow(context, status);
  }
  CreationSpec spec =
      MakeSpec(PrincipalOf(*context, {core_->options.allow_all}), "Accept", *request);
  auto found = core_->servers.Find(spec.principal->name, request->server());
  if (found.tombstone == nullptr && found.record == nullptr) {
    // The field has another name here than elsewhere.
    if (found.status.reason() == v1::INVALID_FIELD) {
      found.status = InvalidField("server", found.status.detail().allowed());
    }
    return FinishNow(context, found.status);
  }
  if (core_->draining) return FinishNow(context, Draining());
  // A connection is only taken out of the backlog for somebody who waits for it.
  spec.abandonable = true;
  spec.loop = found.record != nullptr ? found.record->loop() : core_->NextLoop();
  spec.make = [core = core_, record = found.record](Maker maker) {
    return AcceptFrom(core, record, std::move(maker));
  };
  spec.undo = [core = core_, principal = spec.principal](const Handle& handle) {
    UndoConnection(core, *principal, handle);
  };
  auto fill = FillFrom(&core_->connections, spec.principal, [response](v1::Connection connection) {
    *response->mutable_connection() = std::move(connection);
  });
  // Nothing was asked for but to wait; a server's refusals are its own.
  spec.refused = [](const RpcStatus&) {};
  return CreationCall::Start(core_, std::move(spec), std::move(fill));
}

Reactor* BrokerService::StartServing(Context* context, const v1::StartServingRequest* request,
                                     v1::StartServingResponse* response) {
  if (core_->draining) return FinishNow(context, Draining());
  return OnServer(context, request, response);
}

Reactor* BrokerService::GetServer(Context* context, const v1::GetServerRequest* request,
                                  v1::Server* response) {
  return OnServer(context, request, response);
}

Reactor* BrokerService::CloseServer(Context* context, const v1::CloseServerRequest* request,
                                    v1::CloseServerResponse* response) {
  return OnServer(context, request, response);
}

Reactor* BrokerService::CloseClients(Context* context, const v1::CloseClientsRequest* request,
                                     v1::CloseClientsResponse* response) {
  return OnServer(context, request, response);
}

Reactor* BrokerService::AbortClients(Context* context, const v1::AbortClientsRequest* request,
                                     v1::AbortClientsResponse* response) {
  return OnServer(context, request, response);
}

Reactor* BrokerService::WaitServerClosed(Context* context,
                                         const v1::WaitServerClosedRequest* request,
                                         v1::WaitServerClosedResponse* response) {
  return OnServer(context, request, response);
}

Reactor* BrokerService::ListServers(Context* context, const v1::ListServersRequest* request,
                                    v1::ListServersResponse* response) {
  RpcStatus status = CheckPageSize(request->page_size());
  if (status.ok()) status = CheckLabelFilter(request->labels());
  if (status.ok()) status = CheckHandlePrefix(request->handle_prefix());
  uint64_t after = 0;
  if (status.ok() && !ParsePageToken(request->page_token(), &after)) {
    status = InvalidField("page_token", "one from a previous answer, or absent");
  }
  if (!status.ok()) return FinishNow(context, status);
  decltype(core_->servers)::Query query;
  query.principal = PrincipalOf(*context, {core_->options.allow_all})->name;
  query.labels = request->labels();
  query.handle_prefix = request->handle_prefix();
  query.name = request->name();
  query.include_closed = request->include_closed();
  const bool include_closed = request->include_closed();
  const std::size_t page_size = request->page_size() == 0 ? kDefaultPageSize : request->page_size();
  std::shared_ptr<UnaryCall> call = UnaryCall::Start(core_->NextLoop());
  Reactor* const reactor = call->reactor();
  call->loop()->Dispatch(
      [call, core = core_, query = std::move(query), after, page_size, include_closed, response] {
        call->loop()->Spawn(
            RunList<v1::Server>(call, &core->servers, query, after, page_size, response,
                                [include_closed](v1::Server server, v1::ListServersResponse* out) {
                                  // Closed, but still with connections of its own.
                                  if (include_closed || !server.closed())
                                    *out->add_servers() = std::move(server);
                                }));
      });
  return reactor;
}

// --- connections

Reactor* BrokerService::Read(Context* context, const v1::ReadRequest* request,
                             v1::ReadResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::ReadLine(Context* context, const v1::ReadLineRequest* request,
                                 v1::ReadResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::ReadExactly(Context* context, const v1::ReadExactlyRequest* request,
                                    v1::ReadResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::ReadUntil(Context* context, const v1::ReadUntilRequest* request,
                                  v1::ReadResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::AtEof(Context* context, const v1::AtEofRequest* request,
                              v1::AtEofResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::Write(Context* context, const v1::WriteRequest* request,
                              v1::WriteResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::WriteLines(Context* context, const v1::WriteLinesRequest* request,
                                   v1::WriteResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::Drain(Context* context, const v1::DrainRequest* request,
                              v1::DrainResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::StartTls(Context* context, const v1::StartTlsRequest* request,
                                 v1::StartTlsResponse* response) {
  if (RpcStatus status = CheckRequestId(request->request_id()); !status.ok()) {
    return FinishNow(context, status);
  }
  if (!v1::StartTlsRequest::Side_IsValid(request->side())) {
    return FinishNow(context, InvalidField("side", "CLIENT, SERVER or absent"));
  }
  CreationSpec spec =
      MakeSpec(PrincipalOf(*context, {core_->options.allow_all}), "StartTls", *request);
  auto found = core_->connections.Find(spec.principal->name, request->handle());
  if (found.record != nullptr) {
    spec.loop = found.record->loop();
    // gRPC's request may be gone before an attempt that others wait for has ended.
    spec.make = [record = found.record, request = *request](Maker) {
      return UpgradeToTls(record, request);
    };
  } else if (found.tombstone != nullptr) {
    // A repeated request still gets what the first one got.
    spec.loop = core_->NextLoop();
    spec.make = [tombstone = found.tombstone](Maker) { return RefuseUpgrade(tombstone); };
  } else {
    return FinishNow(context, found.status);
  }
  spec.undo = [](const Handle&) {};  // an upgrade can't be undone
  spec.refused = [](const RpcStatus&) {};
  auto fill = FillFrom(&core_->connections, spec.principal, [response](v1::Connection connection) {
    response->set_read_offset(connection.tls().read_offset());
    response->set_write_offset(connection.tls().write_offset());
    *response->mutable_tls() = std::move(*connection.mutable_tls());
  });
  return CreationCall::Start(core_, std::move(spec), std::move(fill));
}

Reactor* BrokerService::CanWriteEof(Context* context, const v1::CanWriteEofRequest* request,
                                    v1::CanWriteEofResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::WriteEof(Context* context, const v1::WriteEofRequest* request,
                                 v1::WriteEofResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::Close(Context* context, const v1::CloseRequest* request,
                              v1::CloseResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::Abort(Context* context, const v1::AbortRequest* request,
                              v1::AbortResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::IsClosing(Context* context, const v1::IsClosingRequest* request,
                                  v1::IsClosingResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::WaitClosed(Context* context, const v1::WaitClosedRequest* request,
                                   v1::WaitClosedResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::GetExtraInfo(Context* context, const v1::GetExtraInfoRequest* request,
                                     v1::GetExtraInfoResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::GetConnection(Context* context, const v1::GetConnectionRequest* request,
                                      v1::Connection* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::SetOptions(Context* context, const v1::SetOptionsRequest* request,
                                   v1::SetOptionsResponse* response) {
  return OnConnection(context, request, response);
}

Reactor* BrokerService::ListConnections(Context* context, const v1::ListConnectionsRequest* request,
                                        v1::ListConnectionsResponse* response) {
  RpcStatus status = CheckPageSize(request->page_size());
  if (status.ok()) status = CheckLabelFilter(request->labels());
  if (status.ok()) status = CheckHandlePrefix(request->handle_prefix());
  if (status.ok()) status = CheckServerFilter(request->server());
  uint64_t after = 0;
  if (status.ok() && !ParsePageToken(request->page_token(), &after)) {
    status = InvalidField("page_token", "one from a previous answer, or absent");
  }
  if (!status.ok()) return FinishNow(context, status);
  decltype(core_->connections)::Query query;
  query.principal = PrincipalOf(*context, {core_->options.allow_all})->name;
  query.labels = request->labels();
  query.server = request->server();
  query.handle_prefix = request->handle_prefix();
  query.include_closed = request->include_closed();
  const std::size_t page_size = request->page_size() == 0 ? kDefaultPageSize : request->page_size();
  std::shared_ptr<UnaryCall> call = UnaryCall::Start(core_->NextLoop());
  Reactor* const reactor = call->reactor();
  call->loop()->Dispatch(
      [call, core = core_, query = std::move(query), after, page_size, response] {
        call->loop()->Spawn(RunList<v1::Connection>(
            call, &core->connections, query, after, page_size, response,
            [](v1::Connection connection, v1::ListConnectionsResponse* out) {
              *out->add_connections() = std::move(connection);
            }));
      });
  return reactor;
}

grpc::ServerWriteReactor<v1::ConnectionEvent>* BrokerService::WatchConnections(
    Context* context, const v1::WatchConnectionsRequest* request) {
  RpcStatus status = CheckLabelFilter(request->labels());
  if (status.ok()) status = CheckServerFilter(request->server());
  return WatchCall::Start(core_, PrincipalOf(*context, {core_->options.allow_all}), *request,
                          status);
}

}  // namespace sockbroker::server
