// StreamCore: what a StreamReader and a StreamWriter share. asyncio's StreamReaderProtocol, with
// the reader's buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "streams/byte_stream.h"
#include "streams/connection.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams::internal {

class StreamCore final : public StreamProtocol, public std::enable_shared_from_this<StreamCore> {
 public:
  StreamCore(EventLoop* loop, std::shared_ptr<ByteStream> stream, const StreamOptions& options);

  // A reader and writer on `core`, which must not have been started.
  static Connection Start(const std::shared_ptr<StreamCore>& core);

  // The reader's and writer's calls; see stream_reader.h, stream_writer.h. Static, so that the
  // coroutine keeps the core.
  static Task<absl::StatusOr<absl::Cord>> Read(std::shared_ptr<StreamCore> core, std::size_t n);
  static Task<absl::StatusOr<absl::Cord>> ReadAll(std::shared_ptr<StreamCore> core);
  static Task<absl::StatusOr<absl::Cord>> ReadLine(std::shared_ptr<StreamCore> core);
  static Task<absl::StatusOr<absl::Cord>> ReadUntil(std::shared_ptr<StreamCore> core,
                                                    std::vector<std::string> separators);
  static Task<absl::StatusOr<absl::Cord>> ReadExactly(std::shared_ptr<StreamCore> core,
                                                      std::size_t n);
  static Task<absl::Status> Drain(std::shared_ptr<StreamCore> core);
  static Task<absl::Status> WaitClosed(std::shared_ptr<StreamCore> core);

  static Task<absl::Status> StartTls(std::shared_ptr<StreamCore> core,
                                     std::shared_ptr<const TlsContext> context,
                                     StartTlsOptions options);

  absl::Status Write(absl::Cord data, absl::string_view caller);
  absl::Status WriteEof();
  void Close(bool discard_pending);
  void Abort(absl::Status reason);
  void Unread(absl::Cord data);
  absl::Cord TakeBack();
  void NotifyEof(std::function<void()> callback);
  void NotifyClosed(std::function<void()> callback);
  void BeginPull(PullListener* listener);
  absl::Cord Pull(std::size_t max);
  void EndPull();
  void set_limit(std::size_t limit);
  void set_close_timeout(absl::Duration timeout);

  EventLoop* loop() const { return loop_; }
  ByteStream& stream() const { return *stream_; }
  std::size_t limit() const { return limit_; }
  std::size_t buffered() const { return buffer_.size(); }
  uint64_t bytes_received() const { return bytes_received_; }
  bool has_waiter() const { return !data_.empty(); }
  bool eof() const { return eof_; }
  bool lost() const { return lost_; }
  const absl::Status& error() const { return error_; }

  // Called once, when the connection is gone.
  void set_on_lost(std::function<void()> on_lost) { on_lost_ = std::move(on_lost); }

  // StreamProtocol.
  void OnData(absl::Cord data) override;
  bool OnEof() override;
  void OnFlushed() override;
  void OnPauseWriting() override;
  void OnResumeWriting() override;
  void OnConnectionLost(const absl::Status& status) override;

 private:
  // What a read that must wait does first: refuses a second waiter, and resumes a paused stream so
  // that a read of more than twice the limit can't deadlock.
  absl::Status PrepareToWait(absl::string_view caller);
  void MaybeResumeReading();
  void PauseReading();
  // EOF came before what was asked for. After an error that followed the EOF, what is buffered
  // comes first.
  bool EndsIncomplete() const { return eof_ && (error_.ok() || !buffer_.empty()); }
  absl::Cord Take(std::size_t n);

  EventLoop* const loop_;
  std::shared_ptr<ByteStream> stream_;

  // Reading.
  std::size_t limit_;
  absl::Cord buffer_;
  std::size_t unread_ = 0;  // at the buffer's front: what was taken once, and put back
  uint64_t bytes_received_ = 0;
  bool eof_ = false;
  bool reading_paused_ = false;
  absl::Status error_;  // what ended the connection, if an error did
  WaitQueue data_;      // at most one waiter
  PullListener* puller_ = nullptr;

  // Writing and the end.
  bool write_eof_ = false;
  bool writing_paused_ = false;
  bool lost_ = false;
  bool upgrading_ = false;  // StartTls is under way
  WaitQueue drained_;
  WaitQueue closed_;
  absl::Duration close_timeout_;
  Timer close_timer_;
  void TellClosed();
  std::function<void()> on_lost_;
  std::function<void()> on_closed_;
  std::function<void()> on_eof_;
};

// Shared by all copies of a StreamWriter: the last one closes the connection.
struct WriterHandle {
  explicit WriterHandle(std::shared_ptr<StreamCore> c) : core(std::move(c)) {}
  ~WriterHandle();
  WriterHandle(const WriterHandle&) = delete;
  WriterHandle& operator=(const WriterHandle&) = delete;
  const std::shared_ptr<StreamCore> core;
};

}  // namespace sockbroker::streams::internal
