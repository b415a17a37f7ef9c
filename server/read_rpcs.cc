#include <string>
#include <utility>

#include "server/connection_rpcs.h"
#include "server/options_codec.h"

namespace sockbroker::server {
namespace {

using streams::Task;

RpcStatus CheckSize(int64_t n) {
  return n >= 0 && n <= kMaxRead ? RpcStatus() : InvalidField("n", "0 to 1048576");
}

RpcStatus CheckReadId(const std::string& request_id) {
  return request_id.size() <= 16 ? RpcStatus() : InvalidField("request_id", "at most 16 bytes");
}

template <typename Request>
ReadSpec MakeSpec(ReadSpec::Kind kind, Request& request) {
  ReadSpec spec;
  spec.kind = kind;
  if (request.has_offset()) spec.offset = request.offset();
  spec.request_id = request.request_id();
  return spec;
}

Task<RpcStatus> RunRead(CallerView caller, ConnectionRecord& record, ReadSpec spec,
                        v1::ReadResponse* response) {
  if (record.state() == ConnectionRecord::State::kClosing) co_return record.ClosedError();
  ReadResult result;
  RpcStatus status = co_await record.reads().Read(std::move(spec), caller.gone, &result);
  if (!status.ok()) {
    *status.detail().mutable_offsets() = record.offsets();
    co_return status;
  }
  response->set_offset(result.offset);
  absl::CopyCordToString(result.data, response->mutable_data());
  response->set_eof(result.eof);
  response->set_outcome(result.outcome);
  co_return RpcStatus();
}

// Everything was read: `short_of` is what a read that wants more than the end says.
template <typename Request>
RpcStatus ReadAfterEnd(const ConnectionTombstone& tombstone, const Request& request,
                       v1::ReadOutcome short_of, v1::ReadResponse* response) {
  if (!tombstone.loss.ok()) return tombstone.loss;
  if (!tombstone.eof) return ClosedError(tombstone);
  const uint64_t end = tombstone.last.offsets().read_offset();
  if (request.has_offset() && request.offset() != end) {
    RpcStatus status(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE,
                     "everything was read, and the connection has ended");
    *status.detail().mutable_offsets() = tombstone.last.offsets();
    return status;
  }
  response->set_offset(end);
  response->set_eof(true);
  response->set_outcome(short_of);
  return RpcStatus();
}

}  // namespace

RpcStatus Check(const v1::ReadRequest& request) {
  RpcStatus status = CheckSize(request.n());
  return status.ok() ? CheckReadId(request.request_id()) : status;
}

RpcStatus Check(const v1::ReadLineRequest& request) { return CheckReadId(request.request_id()); }

RpcStatus Check(const v1::ReadExactlyRequest& request) {
  RpcStatus status = CheckSize(request.n());
  return status.ok() ? CheckReadId(request.request_id()) : status;
}

RpcStatus Check(const v1::ReadUntilRequest& request) {
  constexpr absl::string_view kAllowed = "at most 64 of them, each of 1 to 65536 bytes";
  if (static_cast<std::size_t>(request.separators_size()) > kMaxSeparators) {
    return InvalidField("separators", kAllowed);
  }
  for (const std::string& separator : request.separators()) {
    if (separator.empty() || separator.size() > kMaxSeparatorSize) {
      return InvalidField("separators", kAllowed);
    }
  }
  return CheckReadId(request.request_id());
}

Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::ReadRequest& request,
                    v1::ReadResponse* response) {
  ReadSpec spec = MakeSpec(ReadSpec::Kind::kSome, request);
  spec.n = static_cast<std::size_t>(request.n());
  return RunRead(caller, record, std::move(spec), response);
}

Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::ReadLineRequest& request,
                    v1::ReadResponse* response) {
  return RunRead(caller, record, MakeSpec(ReadSpec::Kind::kLine, request), response);
}

Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::ReadExactlyRequest& request,
                    v1::ReadResponse* response) {
  ReadSpec spec = MakeSpec(ReadSpec::Kind::kExactly, request);
  spec.n = static_cast<std::size_t>(request.n());
  return RunRead(caller, record, std::move(spec), response);
}

Task<RpcStatus> Run(CallerView caller, ConnectionRecord& record, v1::ReadUntilRequest& request,
                    v1::ReadResponse* response) {
  ReadSpec spec = MakeSpec(ReadSpec::Kind::kUntil, request);
  spec.separators.assign(request.separators().begin(), request.separators().end());
  return RunRead(caller, record, std::move(spec), response);
}

Task<RpcStatus> Run(CallerView /*caller*/, ConnectionRecord& record, v1::AtEofRequest& /*request*/,
                    v1::AtEofResponse* response) {
  if (record.state() == ConnectionRecord::State::kClosing) co_return record.ClosedError();
  response->set_at_eof(record.reads().reader().AtEof());
  co_return RpcStatus();
}

RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::AtEofRequest&,
                   v1::AtEofResponse* response) {
  if (!tombstone.eof) return ClosedError(tombstone);
  response->set_at_eof(true);
  return RpcStatus();
}
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadRequest& request,
                   v1::ReadResponse* response) {
  return ReadAfterEnd(tombstone, request,
                      request.n() == 0 ? v1::READ_OUTCOME_COMPLETE : v1::READ_OUTCOME_EOF,
                      response);
}
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadLineRequest& request,
                   v1::ReadResponse* response) {
  return ReadAfterEnd(tombstone, request, v1::READ_OUTCOME_EOF, response);
}
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadExactlyRequest& request,
                   v1::ReadResponse* response) {
  return ReadAfterEnd(tombstone, request,
                      request.n() == 0 ? v1::READ_OUTCOME_COMPLETE : v1::READ_OUTCOME_INCOMPLETE,
                      response);
}
RpcStatus AfterEnd(const ConnectionTombstone& tombstone, const v1::ReadUntilRequest& request,
                   v1::ReadResponse* response) {
  return ReadAfterEnd(tombstone, request, v1::READ_OUTCOME_INCOMPLETE, response);
}

}  // namespace sockbroker::server
