// OutputWriter: a descriptor that is written by a thread of its own, for a coroutine that wants to
// know what has been written, byte for byte.
//
//   auto news = std::make_shared<streams::WaitQueue>();
//   OutputWriter output(STDOUT_FILENO, news);
//   output.Write(absl::Cord("hello"));
//   while (output.written() < 5 && output.state() == OutputWriter::State::kOpen) {
//     (void)co_await news->Wait();
//   }
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/cord.h"
#include "absl/synchronization/mutex.h"
#include "client/output.h"
#include "streams/event_loop.h"
#include "streams/wait_queue.h"

namespace sockbroker::client {

class OutputWriter {
 public:
  enum class State {
    kOpen,
    // Nobody reads it any more; noticed also while there is nothing to write.
    kClosed,
    // error() has the errno.
    kFailed,
  };

  // On the running loop. Borrows `fd`. `news` is woken there whenever an answer below changes.
  OutputWriter(int fd, std::shared_ptr<streams::WaitQueue> news);
  ~OutputWriter();
  OutputWriter(const OutputWriter&) = delete;
  OutputWriter& operator=(const OutputWriter&) = delete;

  // Behind what was given before. Ignored unless kOpen.
  void Write(absl::Cord bytes);
  // Bytes that write(2) has taken so far.
  uint64_t written();
  // Given, and not written yet.
  std::size_t pending() const;
  State state() const;
  int error() const { return output_.error(); }
  // Ends the thread and lets go of the descriptor; what is pending is dropped.
  void Stop();

 private:
  void Run();
  void Notify();

  const std::shared_ptr<streams::WaitQueue> news_;
  streams::EventLoop* const loop_;
  Output output_;
  const int stop_fd_;
  const int wake_fd_;
  std::atomic<uint64_t> written_{0};
  // A Notify is under way.
  std::atomic<bool> notified_{false};
  mutable absl::Mutex mutex_;
  absl::Cord bytes_ ABSL_GUARDED_BY(mutex_);
  // Of what the thread has in hand.
  std::size_t in_hand_ ABSL_GUARDED_BY(mutex_) = 0;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;
  std::thread thread_;
};

}  // namespace sockbroker::client
