// StreamReader: asyncio.StreamReader. The reading side of a connection.
//
//   absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();     // "GET / HTTP/1.1\r\n"
//   absl::StatusOr<absl::Cord> body = co_await reader.ReadExactly(42);
//   absl::StatusOr<absl::Cord> some = co_await reader.Read(1000);     // empty at EOF
//
// A handle: copies share the stream. One coroutine may wait for data at a time; a second that would
// have to wait gets kFailedPrecondition. Cancelling a wait loses nothing: a later call sees all
// bytes. Data that came before a reset is readable first, then every read gives the error (asyncio
// gives the error at once).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "streams/task.h"

namespace sockbroker::streams {

namespace internal {
class StreamCore;
}

// Who forwards a connection's bytes instead of awaiting them is told here. Called from the loop.
class PullListener {
 public:
  // Bytes, the peer's EOF or the connection's end: Pull again.
  virtual void OnReadable() = 0;
  // The kernel has more of what was written, though nobody wrote just now; or there is room again,
  // the write buffer having been above its high mark.
  virtual void OnFlushed() = 0;

 protected:
  ~PullListener() = default;
};

class StreamReader {
 public:
  // No stream; only assignment and destruction are allowed.
  StreamReader() = default;

  // read(n): waits until there is at least one byte, then gives at most n; empty at EOF. n == 0
  // answers at once with nothing. Not bounded by the limit.
  Task<absl::StatusOr<absl::Cord>> Read(std::size_t n);
  // read(-1): everything until EOF. Cancelled or failed, it puts back what it had collected
  // (asyncio: loses it).
  Task<absl::StatusOr<absl::Cord>> ReadAll();
  // readline(): as ReadUntil("\n"), but at EOF it gives the partial line (possibly empty). A line
  // over the limit is LimitOverrunError and stays in the buffer (asyncio: ValueError, and drops
  // it).
  Task<absl::StatusOr<absl::Cord>> ReadLine();
  // readuntil(): the data with its separator. LimitOverrunError when it isn't within the limit,
  // IncompleteReadError at EOF. An empty separator is kInvalidArgument.
  Task<absl::StatusOr<absl::Cord>> ReadUntil(absl::string_view separator = "\n");
  // With alternatives: the match that ends first wins; of those that end together, the shortest.
  // None at all is kInvalidArgument.
  Task<absl::StatusOr<absl::Cord>> ReadUntil(std::vector<std::string> separators);
  // readexactly(n): IncompleteReadError when EOF comes first. n may be above the limit.
  Task<absl::StatusOr<absl::Cord>> ReadExactly(std::size_t n);

  // EOF was received and the buffer is empty.
  bool AtEof() const;
  // exception(): the stored error of the connection, else OK.
  absl::Status Exception() const;

  // --- beyond asyncio
  // Received and not read yet, bytes.
  std::size_t buffered() const;
  // All bytes ever received, read or not.
  uint64_t bytes_received() const;
  // Whether a coroutine waits for data now.
  bool has_waiter() const;
  // Whether the peer's EOF was received (the buffer may still hold data).
  bool eof_received() const;
  // Calls `callback` once, from the loop, when the peer's EOF is received (in a later turn, if it
  // was). Never after the connection is gone. A second call replaces the first.
  void NotifyEof(std::function<void()> callback);
  // Puts bytes back in front of the buffer: the next read gives them first.
  void Unread(absl::Cord data);
  // From here on bytes are received only as Pull asks for them, `limit` means nothing, and nobody
  // may await a read. The listener must live until EndPull.
  void BeginPull(PullListener* listener);
  // What has been received, at most `max` bytes. If that is nothing, at most so many may come now,
  // and OnReadable follows; 0: nothing may come until the next Pull.
  absl::Cord Pull(std::size_t max);
  void EndPull();
  // Takes out what is buffered as if it had never come: it is not this stream's after all.
  absl::Cord TakeBack();
  std::size_t limit() const;
  // Takes effect with the next call. At least 1.
  void set_limit(std::size_t limit);

 private:
  friend class internal::StreamCore;
  explicit StreamReader(std::shared_ptr<internal::StreamCore> core) : core_(std::move(core)) {}
  std::shared_ptr<internal::StreamCore> core_;
};

}  // namespace sockbroker::streams
