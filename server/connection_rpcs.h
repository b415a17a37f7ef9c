// The RPCs on one connection. For each request type there are up to three functions, found by
// overload:
//
//   Check     its fields alone; before anything is looked up
//   Run       the RPC, on the connection's loop
//   AfterEnd  the same when the connection is gone: from its tombstone
//
// service.cc finds the connection, the loop and the caller, and puts them together.
#pragma once

#include <atomic>

#include "server/broker_core.h"
#include "server/connection_record.h"
#include "server/errors.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/io.pb.h"
#include "streams/task.h"

namespace sockbroker::server {

// What a Run may want to know of its caller.
struct CallerView {
  // Set, from any thread, when the caller has gone.
  const std::atomic<bool>* gone;
};

// CLOSED, with the last offsets and why.
RpcStatus ClosedError(const ConnectionTombstone& tombstone);

template <typename Request>
RpcStatus Check(const Request&) {
  return RpcStatus();
}
template <typename Request, typename Response>
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const Request&, Response*) {
  return ClosedError(tombstone);
}

// --- read_rpcs.cc
RpcStatus Check(const v1::ReadRequest& request);
RpcStatus Check(const v1::ReadLineRequest& request);
RpcStatus Check(const v1::ReadExactlyRequest& request);
RpcStatus Check(const v1::ReadUntilRequest& request);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::ReadRequest& request,
                             v1::ReadResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::ReadLineRequest& request, v1::ReadResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::ReadExactlyRequest& request, v1::ReadResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::ReadUntilRequest& request, v1::ReadResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::AtEofRequest& request,
                             v1::AtEofResponse* response);
// A read of a connection that an error ended gives that error, one that the peer ended gives EOF;
// each time.
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::AtEofRequest& request,
                   v1::AtEofResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadRequest& request,
                   v1::ReadResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadLineRequest& request,
                   v1::ReadResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadExactlyRequest& request,
                   v1::ReadResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadUntilRequest& request,
                   v1::ReadResponse* response);

// --- write_rpcs.cc
RpcStatus Check(const v1::WriteRequest& request);
RpcStatus Check(const v1::WriteLinesRequest& request);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::WriteRequest& request,
                             v1::WriteResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::WriteLinesRequest& request, v1::WriteResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::DrainRequest& request,
                             v1::DrainResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::CanWriteEofRequest& request, v1::CanWriteEofResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::WriteEofRequest& request, v1::WriteEofResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::DrainRequest&,
                   v1::DrainResponse*);

// --- life_rpcs.cc
RpcStatus Check(const v1::GetExtraInfoRequest& request);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::CloseRequest& request,
                             v1::CloseResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::AbortRequest& request,
                             v1::AbortResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::IsClosingRequest& request, v1::IsClosingResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::WaitClosedRequest& request, v1::WaitClosedResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::GetExtraInfoRequest& request, v1::GetExtraInfoResponse* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::GetConnectionRequest& request, v1::Connection* response);
streams::Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record,
                             v1::SetOptionsRequest& request, v1::SetOptionsResponse* response);
// Idempotent, or about what stays known.
RpcStatus AfterEnd(const ConnectionTombstone&, const v1::CloseRequest&, v1::CloseResponse*);
RpcStatus AfterEnd(const ConnectionTombstone&, const v1::AbortRequest&, v1::AbortResponse*);
RpcStatus AfterEnd(const ConnectionTombstone&, const v1::IsClosingRequest&,
                   v1::IsClosingResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::WaitClosedRequest&,
                   v1::WaitClosedResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::GetExtraInfoRequest& request,
                   v1::GetExtraInfoResponse* response);
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::GetConnectionRequest&,
                   v1::Connection* response);

}  // namespace sockbroker::server
