#include "server/server_rpcs.h"

namespace sockbroker::server {

using streams::Task;

RpcStatus ServerClosed() { return WrongState(v1::SERVER_CLOSED, "the server is closed"); }

Task<RpcStatus> Run(ServerRecord& record, const v1::StartServingRequest& /*request*/,
                    v1::StartServingResponse* response) {
  RpcStatus status = co_await record.StartServing();
  if (!status.ok()) co_return status;
  *response->mutable_server() = record.Snapshot();
  co_return RpcStatus();
}

Task<RpcStatus> Run(ServerRecord& record, const v1::GetServerRequest& /*request*/,
                    v1::Server* response) {
  *response = record.Snapshot();
  co_return RpcStatus();
}

Task<RpcStatus> Run(ServerRecord& record, const v1::CloseServerRequest& /*request*/,
                    v1::CloseServerResponse* /*response*/) {
  record.Close("closed by CloseServer");
  co_return RpcStatus();
}

Task<RpcStatus> Run(ServerRecord& record, const v1::CloseClientsRequest& /*request*/,
                    v1::CloseClientsResponse* response) {
  response->set_connections(record.CloseClients());
  co_return RpcStatus();
}

Task<RpcStatus> Run(ServerRecord& record, const v1::AbortClientsRequest& /*request*/,
                    v1::AbortClientsResponse* response) {
  response->set_connections(record.AbortClients());
  co_return RpcStatus();
}

Task<RpcStatus> Run(ServerRecord& record, const v1::WaitServerClosedRequest& /*request*/,
                    v1::WaitServerClosedResponse* response) {
  const absl::Status status = co_await record.WaitClosed();
  if (!status.ok()) co_return CallerGone();
  *response->mutable_server() = record.Snapshot();
  co_return RpcStatus();
}

RpcStatus AfterEnd(const ServerTombstone&, const v1::StartServingRequest&,
                   v1::StartServingResponse*) {
  return ServerClosed();
}

RpcStatus AfterEnd(const ServerTombstone& tombstone, const v1::GetServerRequest&,
                   v1::Server* response) {
  *response = tombstone.last;
  return RpcStatus();
}

RpcStatus AfterEnd(const ServerTombstone&, const v1::CloseServerRequest&,
                   v1::CloseServerResponse*) {
  return RpcStatus();
}

// It has none any more.
RpcStatus AfterEnd(const ServerTombstone&, const v1::CloseClientsRequest&,
                   v1::CloseClientsResponse*) {
  return RpcStatus();
}

RpcStatus AfterEnd(const ServerTombstone&, const v1::AbortClientsRequest&,
                   v1::AbortClientsResponse*) {
  return RpcStatus();
}

RpcStatus AfterEnd(const ServerTombstone& tombstone, const v1::WaitServerClosedRequest&,
                   v1::WaitServerClosedResponse* response) {
  *response->mutable_server() = tombstone.last;
  return RpcStatus();
}

}  // namespace sockbroker::server
