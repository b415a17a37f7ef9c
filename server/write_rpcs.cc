#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "server/connection_rpcs.h"
#include "server/options_codec.h"

namespace sockbroker::server {
namespace {

using streams::Task;

template <typename Request>
RpcStatus CheckWriter(const Request& request) {
  const std::size_t size = request.writer().size();
  if (size == 0 && !request.has_offset()) return RpcStatus();
  return size >= 8 && size <= 16
             ? RpcStatus()
             : InvalidField("writer", "8 to 16 random bytes, with an offset always");
}

// Open, or why nothing can be written.
Task<RpcStatus> CheckWritable(ConnectionRecord& record) {
  if (record.state() == ConnectionRecord::State::kOpen && record.writer().IsClosing()) {
    // An error has struck; a moment later it is known which.
    const absl::Status waited = co_await record.WaitGone();
    if (!waited.ok()) co_return CallerGone();
  }
  if (record.state() != ConnectionRecord::State::kOpen) co_return record.ClosedError();
  co_return RpcStatus();
}

Task<RpcStatus> DrainNow(ConnectionRecord& record) {
  const absl::Status status = co_await record.writer().Drain();
  if (status.ok()) co_return RpcStatus();
  if (absl::IsCancelled(status) && !record.writer().IsClosed()) co_return CallerGone();
  // What ended it is known a moment later; it says more than "Connection lost".
  if (const absl::Status waited = co_await record.WaitGone(); !waited.ok()) co_return CallerGone();
  RpcStatus loss = record.LossError();
  co_return loss.ok() ? record.ClosedError() : loss;
}

template <typename Request>
Task<RpcStatus> RunWrite(CallerView caller, ConnectionRecord& record, Request& request,
                         absl::Cord data, v1::WriteResponse* response) {
  RpcStatus status = co_await CheckWritable(record);
  if (!status.ok()) co_return status;
  // From here to the end of Write nothing is awaited: it is taken whole, or the caller had gone
  // before.
  if (caller.gone->load()) co_return CallerGone();
  WriteSpec spec;
  spec.data = std::move(data);
  if (request.has_offset()) spec.offset = request.offset();
  spec.writer = request.writer();
  spec.eof = request.eof();
  if (request.require_tls() && !record.tls().has_value()) {
    status = WrongState(v1::NOT_TLS, "the connection is not encrypted");
  } else {
    status = record.writes().Write(std::move(spec));
    record.OnWrote();
  }
  if (status.ok() && request.drain()) status = co_await DrainNow(record);
  if (!status.ok()) {
    *status.detail().mutable_offsets() = record.offsets();
    co_return status;
  }
  response->set_write_offset(record.writes().offset());
  response->set_flushed(record.writes().flushed());
  co_return RpcStatus();
}

}  // namespace

RpcStatus Check(const v1::WriteRequest& request) {
  if (request.data().size() > kMaxWrite) return InvalidField("data", "at most 1048576 bytes");
  return CheckWriter(request);
}

RpcStatus Check(const v1::WriteLinesRequest& request) {
  if (static_cast<std::size_t>(request.lines_size()) > kMaxLines) {
    return InvalidField("lines", "at most 65536 parts");
  }
  std::size_t size = 0;
  for (const std::string& line : request.lines()) size += line.size();
  if (size > kMaxWrite) return InvalidField("lines", "at most 1048576 bytes in all");
  return CheckWriter(request);
}

Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::WriteRequest& request,
                    v1::WriteResponse* response) {
  // The request is ours and not read again: its bytes move on without a copy.
  absl::Cord data(std::move(*request.mutable_data()));
  return RunWrite(caller, record, request, std::move(data), response);
}

Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::WriteLinesRequest& request,
                    v1::WriteResponse* response) {
  absl::Cord data;
  for (std::string& line : *request.mutable_lines()) data.Append(std::move(line));
  return RunWrite(caller, record, request, std::move(data), response);
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record, v1::DrainRequest& /*request*/,
                    v1::DrainResponse* response) {
  RpcStatus status = co_await DrainNow(record);
  if (!status.ok()) co_return status;
  response->set_write_offset(record.writes().offset());
  response->set_flushed(record.writes().flushed());
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record,
                    v1::CanWriteEofRequest& /*request*/, v1::CanWriteEofResponse* response) {
  if (record.state() != ConnectionRecord::State::kOpen) co_return record.ClosedError();
  response->set_can_write_eof(record.writer().CanWriteEof());
  co_return RpcStatus();
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record,
                    v1::WriteEofRequest& /*request*/, v1::WriteEofResponse* response) {
  // A repetition is fine whatever happened since.
  if (!record.writes().eof()) {
    RpcStatus status = co_await CheckWritable(record);
    if (status.ok()) status = record.WriteEof();
    if (!status.ok()) co_return status;
  }
  response->set_write_offset(record.writes().offset());
  co_return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::DrainRequest&,
                   v1::DrainResponse*) {
  return tombstone.loss.ok() ? ClosedError(tombstone) : tombstone.loss;
}

}  // namespace sockbroker::server
