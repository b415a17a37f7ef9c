// ReadSide: a connection's reading half as the unary reads see it: positions, kept bytes, who reads
// now.
//
//   ReadSide reads(reader);
//   ReadResult result;
//   RpcStatus status = co_await reads.Read(
//       {.kind = ReadSpec::Kind::kExactly, .n = 4, .offset = 0}, &gone, &result);
//
// A read with an offset is kept: the bytes it returned stay here until a later read's offset shows
// that they arrived. A read whose caller has gone (`gone`), or that was superseded, consumes
// nothing. On the loop's thread only.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "server/errors.h"
#include "sockbroker/v1/io.pb.h"
#include "streams/cancel.h"
#include "streams/stream_reader.h"
#include "streams/task.h"
#include "streams/wait_queue.h"

namespace sockbroker::server {

struct ReadSpec {
  enum class Kind { kSome, kLine, kExactly, kUntil };
  Kind kind = Kind::kSome;
  std::size_t n = 0;
  std::vector<std::string> separators;  // kUntil; none: "\n"
  std::optional<uint64_t> offset;
  std::string request_id;
};

struct ReadResult {
  uint64_t offset = 0;
  absl::Cord data;
  bool eof = false;
  v1::ReadOutcome outcome = v1::READ_OUTCOME_COMPLETE;
};

class ReadSide {
 public:
  // The reader's first `skip` bytes were not the client's (a PROXY header): positions count from
  // behind them.
  explicit ReadSide(streams::StreamReader reader, uint64_t skip = 0);
  ReadSide(const ReadSide&) = delete;
  ReadSide& operator=(const ReadSide&) = delete;

  // Checks of the fields have been made. `gone` may be set from another thread at any time, and
  // must outlive the call. FAILED_PRECONDITION (READ_PENDING, SUPERSEDED), OUT_OF_RANGE,
  // RESOURCE_EXHAUSTED (LIMIT_OVERRUN), the connection's error.
  streams::Task<RpcStatus> Read(ReadSpec spec, const std::atomic<bool>* gone, ReadResult* result);

  // The connection is about to speak TLS: what lies from `offset` on, kept or not read yet, is put
  // back for the handshake; without an offset there must be no unread plaintext
  // (FAILED_PRECONDITION, UNREAD_PLAINTEXT). Decrypted data begins at next(), above every offset
  // given out before. CancelTls, if the handshake did not begin after all.
  RpcStatus BeginTls(const std::optional<uint64_t>& offset);
  void CancelTls() { skip_ = skip_before_tls_; }

  // A session takes over: every read that waits ends (FAILED_PRECONDITION, BOUND). idle() once they
  // have; WaitIdle waits for that.
  void EndReads(uint64_t epoch);
  streams::Task<absl::Status> WaitIdle();
  // A session reads from `offset` on (none: from the lowest byte kept); nobody may wait in a read.
  // OUT_OF_RANGE unless it lies within kept_start() to received(). The listener must live until
  // EndPull, which takes back what the session read and its client did not take.
  RpcStatus BeginPull(const std::optional<uint64_t>& offset, streams::PullListener* listener);
  absl::Cord Pull(std::size_t max) { return reader_.Pull(max); }
  void EndPull(absl::Cord unread);
  // As BeginTls, for a session that has seen everything below `begin` and gives back what lies from
  // the upgrade on: decrypted data begins at `begin`.
  void BeginTlsAt(uint64_t begin, absl::Cord taken_back);

  // The next byte a read would return; the lowest byte kept; one past the last received.
  uint64_t next() const { return received() - reader_.buffered(); }
  uint64_t kept_start() const { return next() - kept_.size(); }
  uint64_t received() const { return reader_.bytes_received() - skip_; }
  std::size_t buffered() const { return reader_.buffered(); }
  // Nothing can be read any more, not even again.
  bool empty() const { return kept_.empty() && reader_.buffered() == 0; }
  bool idle() const { return turns_.empty(); }
  streams::StreamReader& reader() { return reader_; }
  const streams::StreamReader& reader() const { return reader_; }
  uint64_t skip() const { return skip_; }

 private:
  // A read under way, in the order of their arrival.
  struct Turn;

  RpcStatus MoveTo(const std::optional<uint64_t>& offset);
  bool HasEarlierWithSameId(const Turn& turn) const;

  streams::StreamReader reader_;
  // What the reader's count of bytes is ahead of the connection's offsets. Modulo 2^64: an upgrade
  // makes offsets run ahead of the bytes.
  uint64_t skip_;
  uint64_t skip_before_tls_ = 0;
  absl::Cord kept_;
  std::vector<Turn*> turns_;
  streams::WaitQueue turn_ended_;
};

}  // namespace sockbroker::server
