#include "client/relay.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "streams/task_group.h"
#include "streams/wait_for.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::client {
namespace {

using streams::Shielded;
using streams::Task;

// So much may wait for each writer: two of the session's batches, so that the next is there when
// the last has gone. Above the high mark nothing is read: many small reads cost more than a little
// waiting.
constexpr std::size_t kMaxWaiting = 512 * 1024;
constexpr std::size_t kHighMark = kMaxWaiting - 64 * 1024;
constexpr std::size_t kLowMark = kMaxWaiting / 2;
// What came before a reset is given so long to be taken.
constexpr absl::Duration kFlushBeforeReset = absl::Seconds(5);

class Join;

// One of the two, as a source and as a sink.
class Side final : public streams::PullListener {
 public:
  Side(Join* join, StreamReader reader, streams::StreamWriter writer)
      : join_(join), reader(std::move(reader)), writer(std::move(writer)) {}

  void OnReadable() override;
  void OnFlushed() override;

 private:
  Join* const join_;

 public:
  StreamReader reader;
  streams::StreamWriter writer;
  uint64_t* bytes = nullptr;
  // All that came from it was passed on, and so was its end.
  bool drained = false;
  // The connection is gone.
  bool lost = false;
};

class Join {
 public:
  Join(streams::Connection local, Connection remote, RelayTraffic* traffic)
      : local_(this, std::move(local.reader), std::move(local.writer)),
        remote_(this, std::move(remote.reader), remote.writer),
        remote_writer_(std::move(remote.writer)) {
    local_.bytes = &traffic->sent;
    remote_.bytes = &traffic->received;
  }

  Task<RelayEnd> Run() {
    // As long as the other end's application takes: TCP would not hurry it either.
    local_.writer.set_close_timeout(absl::InfiniteDuration());
    for (Side* side : {&local_, &remote_}) {
      (void)side->writer.SetWriteBufferLimits(kHighMark, kLowMark);
    }
    streams::TaskGroup watches;
    watches.Spawn(Shield(Watch(&local_)));
    watches.Spawn(Shield(Watch(&remote_)));
    local_.reader.BeginPull(&local_);
    remote_.reader.BeginPull(&remote_);
    Move(&local_);
    Move(&remote_);
    absl::Status stopped;
    while (stopped.ok() && !Ended()) stopped = co_await changed_.Wait();
    if (stopped.ok()) {
      stopped = co_await Finish();
    }
    if (!stopped.ok()) {
      local_.writer.Abort();
      remote_.writer.Abort();
    }
    co_await Shielded(JoinAll(&watches));
    local_.reader.EndPull();
    remote_.reader.EndPull();
    co_return RelayEnd{local_.reader.Exception(), remote_.reader.Exception()};
  }

  // Passes on what `from` has. Called whenever it has something, and whenever the other has room.
  void Move(Side* from) {
    Side* const to = Other(from);
    while (!from->drained) {
      if (to->lost) {
        // Nobody takes it: as if there were no more.
        from->reader.Pull(0);
        return;
      }
      const std::size_t waiting = to->writer.GetWriteBufferSize();
      if (waiting > kHighMark) {
        from->reader.Pull(0);
        return;
      }
      absl::Cord data = from->reader.Pull(kMaxWaiting - waiting);
      if (data.empty()) {
        if (!from->reader.AtEof() && !from->lost) return;
        from->drained = true;
        if (from->reader.Exception().ok()) (void)to->writer.WriteEof();
        changed_.WakeAll();
        return;
      }
      *from->bytes += data.size();
      (void)to->writer.Write(std::move(data));
    }
  }

  void OnFlushed(Side* side) {
    Move(Other(side));
    if (!changed_.empty()) changed_.WakeAll();
  }

 private:
  static Task<void> JoinAll(streams::TaskGroup* group) { (void)co_await group->Join(); }
  static Task<void> Shield(Task<void> task) { co_await Shielded(std::move(task)); }

  Side* Other(const Side* side) { return side == &local_ ? &remote_ : &local_; }

  bool Ended() const {
    return (local_.drained && remote_.drained) || (local_.lost && local_.drained) ||
           (remote_.lost && remote_.drained) || (local_.lost && remote_.lost);
  }

  Task<void> Watch(Side* side) {
    (void)co_await side->writer.WaitClosed();
    side->lost = true;
    // What it had received is still there.
    Move(side);
    Move(Other(side));
    changed_.WakeAll();
  }

  // Both directions have ended, or one side has altogether.
  Task<absl::Status> Finish() {
    const bool reset = !local_.reader.Exception().ok() || !remote_.reader.Exception().ok();
    Task<absl::Status> flush = Flush();
    if (!reset) {
      absl::Status status = co_await std::move(flush);
      if (!status.ok()) co_return status;
      // Perhaps meanwhile.
      if (local_.reader.Exception().ok() && remote_.reader.Exception().ok()) {
        local_.writer.Close();
        remote_.writer.Close();
        co_return absl::OkStatus();
      }
    } else {
      (void)co_await streams::WaitFor(std::move(flush), kFlushBeforeReset);
    }
    local_.writer.Abort();
    remote_.writer.Abort();
    co_return absl::OkStatus();
  }

  // Until both kernels have what was written, as far as somebody still takes it.
  Task<absl::Status> Flush() {
    if (!remote_.lost) {
      absl::Status status = co_await remote_writer_.Flush();
      if (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) co_return status;
    }
    while (!local_.lost && local_.writer.GetWriteBufferSize() > 0) {
      if (absl::Status status = co_await changed_.Wait(); !status.ok()) co_return status;
    }
    co_return absl::OkStatus();
  }

  Side local_;
  Side remote_;
  client::StreamWriter remote_writer_;
  streams::WaitQueue changed_;
};

void Side::OnReadable() { join_->Move(this); }
void Side::OnFlushed() { join_->OnFlushed(this); }

Task<RelayEnd> RunJoin(streams::Connection local, Connection remote, RelayTraffic* traffic) {
  Join join(std::move(local), std::move(remote), traffic);
  co_return co_await join.Run();
}

}  // namespace

Task<RelayEnd> Relay::Run(streams::Connection local, Connection remote, RelayTraffic* traffic) {
  return RunJoin(std::move(local), std::move(remote), traffic);
}

}  // namespace sockbroker::client
