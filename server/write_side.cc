#include "server/write_side.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sockbroker::server {

WriteSide::WriteSide(streams::StreamWriter writer, std::size_t buffer_limit, uint64_t skip)
    : writer_(std::move(writer)), buffer_limit_(buffer_limit), skip_(skip) {}

uint64_t WriteSide::flushed() const {
  const uint64_t flushed = writer_.bytes_flushed();
  return flushed > skip_ ? flushed - skip_ : 0;
}

std::size_t WriteSide::buffered() const { return writer_.GetWriteBufferSize(); }

RpcStatus WriteSide::Write(WriteSpec spec) {
  if (spec.offset.has_value() && *spec.offset != offset_) {
    if (*spec.offset > offset_) {
      return RpcStatus(
          grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE,
          absl::StrCat("offset ", *spec.offset, " leaves a gap: the stream stands at ", offset_));
    }
    if (run_writer_ != spec.writer || *spec.offset < run_start_) {
      return RpcStatus(
          grpc::StatusCode::ABORTED, v1::OTHER_WRITER,
          absl::StrCat("offset ", *spec.offset,
                       " lies before what another writer wrote; the stream stands at ", offset_));
    }
    const uint64_t written = offset_ - *spec.offset;
    if (spec.data.size() < written) {
      // All of it is a repetition, but not the last thing written: an end can't come before what
      // follows it.
      if (spec.eof) {
        return RpcStatus(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE,
                         absl::StrCat("the stream goes on to ", offset_, ", it can't end at ",
                                      *spec.offset + spec.data.size()));
      }
      return RpcStatus();
    }
    spec.data.RemovePrefix(static_cast<std::size_t>(written));
  }
  if (eof_ && !spec.data.empty()) {
    return WrongState(v1::WRITE_AFTER_EOF, "Cannot call write() after write_eof()");
  }
  // Before the data is taken: the whole request or nothing of it.
  if (spec.eof && !eof_ && !writer_.CanWriteEof()) {
    return WrongState(v1::UNSUPPORTED, "this stream can't end one direction alone");
  }
  if (!spec.data.empty()) {
    const std::size_t size = spec.data.size();
    if (buffered() + size > buffer_limit_) {
      return Exhausted(v1::WRITE_BUFFER_FULL, "write_buffer", buffer_limit_,
                       absl::Milliseconds(100),
                       "the connection's write buffer is full: drain, then write again");
    }
    if (absl::Status status = writer_.Write(std::move(spec.data)); !status.ok()) {
      return FromEngine(status, EngineCall::kStream, "data");
    }
    if (run_writer_ != spec.writer || spec.writer.empty()) {
      run_writer_ = std::move(spec.writer);
      run_start_ = offset_;
    }
    offset_ += size;
  }
  return spec.eof ? WriteEof() : RpcStatus();
}

absl::Status WriteSide::WriteFromSession(absl::Cord data) {
  if (eof_) return absl::FailedPreconditionError("Cannot call write() after write_eof()");
  const std::size_t size = data.size();
  if (absl::Status status = writer_.Write(std::move(data)); !status.ok()) return status;
  run_writer_.clear();
  offset_ += size;
  return absl::OkStatus();
}

RpcStatus WriteSide::WriteEof() {
  if (eof_) return RpcStatus();
  if (absl::Status status = writer_.WriteEof(); !status.ok()) {
    return FromEngine(status, EngineCall::kStream);
  }
  eof_ = true;
  return RpcStatus();
}

}  // namespace sockbroker::server
