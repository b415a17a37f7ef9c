#include <utility>

#include "server/connection_rpcs.h"
#include "server/extra_info.h"

namespace sockbroker::server {

using streams::Task;

RpcStatus ClosedError(const ConnectionTombstone& tombstone) {
  RpcStatus status = WrongState(v1::CLOSED, "the connection is closed");
  *status.detail().mutable_offsets() = tombstone.last.offsets();
  status.detail().set_close_reason(tombstone.last.close_reason());
  return status;
}

RpcStatus Check(const v1::GetExtraInfoRequest& request) {
  return request.name().size() <= 64 ? RpcStatus() : InvalidField("name", "at most 64 bytes");
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record, v1::CloseRequest& request,
                    v1::CloseResponse* /*response*/) {
  if (request.discard_pending()) {
    record.Close(v1::ABORTED_BY_CLIENT, /*discard=*/true);
  } else {
    record.Close(v1::CLOSED_BY_CLIENT);
  }
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record, v1::AbortRequest& /*request*/,
                    v1::AbortResponse* /*response*/) {
  record.Abort(v1::ABORTED_BY_CLIENT);
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record,
                    v1::IsClosingRequest& /*request*/, v1::IsClosingResponse* response) {
  response->set_is_closing(record.writer().IsClosing());
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record,
                    v1::WaitClosedRequest& /*request*/, v1::WaitClosedResponse* response) {
  const absl::Status status = co_await record.WaitGone();
  if (!status.ok()) co_return CallerGone();
  RpcStatus loss = record.LossError();
  if (!loss.ok()) co_return loss;
  *response->mutable_connection() = record.Snapshot();
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record,
                    v1::GetExtraInfoRequest& request, v1::GetExtraInfoResponse* response) {
  FillExtraInfo(request.name(), record.writer(), response);
  if (const std::optional<v1::TlsInfo> tls = record.tls()) {
    FillExtraInfo(request.name(), *tls, response);
  }
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record,
                    v1::GetConnectionRequest& /*request*/, v1::Connection* response) {
  *response = record.Snapshot();
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record, v1::SetOptionsRequest& request,
                    v1::SetOptionsResponse* response) {
  if (record.state() != ConnectionRecord::State::kOpen) co_return record.ClosedError();
  RpcStatus status = record.SetOptions(request);
  if (!status.ok()) co_return status;
  *response->mutable_connection() = record.Snapshot();
  co_return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone&, const v1::CloseRequest&, v1::CloseResponse*) {
  return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone&, const v1::AbortRequest&, v1::AbortResponse*) {
  return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone&, const v1::IsClosingRequest&,
                   v1::IsClosingResponse* response) {
  response->set_is_closing(true);
  return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::WaitClosedRequest&,
                   v1::WaitClosedResponse* response) {
  if (!tombstone.loss.ok()) return tombstone.loss;
  *response->mutable_connection() = tombstone.last;
  return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::GetExtraInfoRequest& request,
                   v1::GetExtraInfoResponse* response) {
  FillExtraInfo(request.name(), tombstone.last, response);
  return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::GetConnectionRequest&,
                   v1::Connection* response) {
  *response = tombstone.last;
  return RpcStatus();
}

}  // namespace sockbroker::server
