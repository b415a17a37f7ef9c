// WriteSide: a connection's writing half as the unary writes see it: positions, and whose bytes may
// be repeated.
//
//   WriteSide writes(writer, limits.write_buffer);
//   RpcStatus status = writes.Write({.data = data, .offset = 0, .writer = id});     // never waits
//
// On the loop's thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "server/errors.h"
#include "streams/stream_writer.h"

namespace sockbroker::server {

struct WriteSpec {
  absl::Cord data;
  std::optional<uint64_t> offset;
  std::string writer;
  bool eof = false;
};

class WriteSide {
 public:
  // `buffer_limit`: bytes that may wait for the kernel. The first `skip` bytes that the writer
  // sends are not the client's (a PROXY header): positions count from behind them.
  WriteSide(streams::StreamWriter writer, std::size_t buffer_limit, uint64_t skip = 0);
  WriteSide(const WriteSide&) = delete;
  WriteSide& operator=(const WriteSide&) = delete;

  // Takes all of it, or nothing. With an offset, what the same writer wrote before, with nobody
  // else's bytes between, is trimmed as a repetition; an end of the stream is repeated likewise.
  // ABORTED (OTHER_WRITER), OUT_OF_RANGE, FAILED_PRECONDITION (WRITE_AFTER_EOF, UNSUPPORTED),
  // RESOURCE_EXHAUSTED (WRITE_BUFFER_FULL).
  RpcStatus Write(WriteSpec spec);
  // A session's bytes, which its window bounds. kFailedPrecondition behind the stream's end.
  absl::Status WriteFromSession(absl::Cord data);
  // Idempotent.
  RpcStatus WriteEof();

  // One past the last byte accepted; one past the last the kernel has.
  uint64_t offset() const { return offset_; }
  uint64_t flushed() const;
  std::size_t buffered() const;
  bool eof() const { return eof_; }

 private:
  streams::StreamWriter writer_;
  const std::size_t buffer_limit_;
  const uint64_t skip_;
  uint64_t offset_ = 0;
  bool eof_ = false;
  // The last writer's run is run_start_..offset_; "" when the last bytes came without a writer.
  std::string run_writer_;
  uint64_t run_start_ = 0;
};

}  // namespace sockbroker::server
