// The RPCs on one server but Accept; as connection_rpcs.h has them for connections.
#pragma once

#include "server/broker_core.h"
#include "server/errors.h"
#include "server/server_record.h"
#include "sockbroker/v1/server.pb.h"
#include "streams/task.h"

namespace sockbroker::server {

RpcStatus ServerClosed();

streams::Task<RpcStatus> Run(ServerRecord& record, const v1::StartServingRequest& request,
                             v1::StartServingResponse* response);
streams::Task<RpcStatus> Run(ServerRecord& record, const v1::GetServerRequest& request,
                             v1::Server* response);
streams::Task<RpcStatus> Run(ServerRecord& record, const v1::CloseServerRequest& request,
                             v1::CloseServerResponse* response);
streams::Task<RpcStatus> Run(ServerRecord& record, const v1::CloseClientsRequest& request,
                             v1::CloseClientsResponse* response);
streams::Task<RpcStatus> Run(ServerRecord& record, const v1::AbortClientsRequest& request,
                             v1::AbortClientsResponse* response);
streams::Task<RpcStatus> Run(ServerRecord& record, const v1::WaitServerClosedRequest& request,
                             v1::WaitServerClosedResponse* response);

RpcStatus AfterEnd(const ServerTombstone&, const v1::StartServingRequest&,
                   v1::StartServingResponse*);
RpcStatus AfterEnd(const ServerTombstone& tombstone, const v1::GetServerRequest&,
                   v1::Server* response);
RpcStatus AfterEnd(const ServerTombstone&, const v1::CloseServerRequest&, v1::CloseServerResponse*);
RpcStatus AfterEnd(const ServerTombstone&, const v1::CloseClientsRequest&,
                   v1::CloseClientsResponse*);
RpcStatus AfterEnd(const ServerTombstone&, const v1::AbortClientsRequest&,
                   v1::AbortClientsResponse*);
RpcStatus AfterEnd(const ServerTombstone& tombstone, const v1::WaitServerClosedRequest&,
                   v1::WaitServerClosedResponse* response);

}  // namespace sockbroker::server
