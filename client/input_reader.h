// InputReader: a descriptor that is read by a thread of its own, for a coroutine: it may be
// anything (a terminal, a file, a pipe that others share) and is left as it is.
//
//   auto news = std::make_shared<streams::WaitQueue>();
//   InputReader input(STDIN_FILENO, /*crlf=*/false, news);
//   InputReader::Piece piece = input.Take();     // what is there; the thread reads on
//   if (piece.bytes.empty() && !piece.ended) (void)co_await news->Wait();
//
// It reads ahead by half a megabyte at most.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/synchronization/mutex.h"
#include "streams/event_loop.h"
#include "streams/wait_queue.h"

namespace sockbroker::client {

// What is open for writing alone is an error: poll(2) would wait on a pipe for ever.
absl::Status CheckReadable(int fd);

class InputReader {
 public:
  // On the running loop. Borrows `fd`. `news` is woken there when Take has something new to say.
  // `crlf`: LF becomes CR LF.
  InputReader(int fd, bool crlf, std::shared_ptr<streams::WaitQueue> news);
  ~InputReader();
  InputReader(const InputReader&) = delete;
  InputReader& operator=(const InputReader&) = delete;

  struct Piece {
    absl::Cord bytes;
    // Nothing comes behind it: the end, or an error.
    bool ended = false;
    absl::Status error;
  };
  Piece Take();
  // Whether there is something to take, or would be at once.
  bool HasSomething() const;
  // The end was seen, and everything before it taken.
  bool exhausted() const;
  // Ends the thread. Nothing more comes.
  void Stop();

 private:
  void Run();
  bool HasRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Append(absl::string_view bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Notify() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int fd_;
  const bool crlf_;
  const std::shared_ptr<streams::WaitQueue> news_;
  streams::EventLoop* const loop_;
  const int stop_fd_;
  mutable absl::Mutex mutex_;
  absl::Cord bytes_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace sockbroker::client
